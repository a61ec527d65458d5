"""The contract: decodes, authorises, applies the protocol's rules, writes. Served by one service per organisation."""
