"""What every party must agree on: records, codes, sealing, rules of judging, aggregation. Pure, no I/O."""
