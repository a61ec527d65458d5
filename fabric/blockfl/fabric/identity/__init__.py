"""Who somebody is: certificates, keys, authorities, membership of an organisation, policies over signatures."""
