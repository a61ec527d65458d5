"""The guard before an ordering node: it refuses what would stop or stall peers, and passes everything else on.

Ordering nodes order what they do not look into. A guard stands on the address that peers and clients dial, looks into
what is to be ordered with the rule of `validate.orderable`, and hands blocks through byte by byte.
"""
