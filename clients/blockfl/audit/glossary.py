"""What the words of a report mean, for readers who know nothing of ledgers or of training."""

from typing import Final

GLOSSARY: Final = {
    "Accuracy": "The share of cases that a model gets right. Each institution measures it on its own test data.",
    "Block": "A page of the ledger. It names the hash of the page before it, so no page can be changed unseen.",
    "Committee": "Organisations that open updates to judge them. A threshold of them must agree.",
    "Commitment": "A number that fixes an update without showing it. Sums of updates can be checked with it.",
    "Commitment, recompute": "Who checks a sum: with commitments everybody can, with recompute only the committee.",
    "Contract": "The program that each organisation runs for itself to check a transaction.",
    "Definition": "Which version of the contract is in force. A majority of organisations approves it.",
    "Endorsement": "A signature of an organisation's peer: its own contract came to the same result.",
    "FedAvg": "How updates become one: their mean, each weighted by its number of samples.",
    "Hash, digest": "A short number that stands for a file. Another file has another one.",
    "Institution": "An organisation that trains on its own data and sends updates, for example a hospital.",
    "Ledger": "The shared record. Each organisation's peer holds a copy.",
    "Norm": "How large an update is. A bound on it keeps one institution from outweighing the others. The L2 norm is "
    "the root of the sum of all squares (Σx²). The ledger holds its rough size: 35 bits is less than 2 to the 35th.",
    "Ordering node": "A computer that puts transactions into order. It cannot make one valid.",
    "Package": "The file that an organisation installed the contract from, named by its digest. `blockfl --version` "
    "tells the digest of the contract's source that a release has.",
    "Peer": "An organisation's computer that holds the ledger and endorses transactions.",
    "Round": "Institutions train once, send updates, and the accepted ones make the next version.",
    "Signers, endorsed by": "The organisations that endorsed a transaction: their computers came to the same result. "
    "That is no consent to what it says.",
    "Stake": "Credits that an institution deposits and loses a share of when it breaks a rule.",
    "Transaction": "One entry in a block, signed by the organisation that sent it.",
    "Version": "The model after a round. Version 0 is the model that the task began with.",
    "Attest": "A committee member says with its signature that it computed the same sum.",
    "Base version": "The version of the model that a round began with.",
    "Certificate, signing root, TLS root": "A certificate says whose a key is. Each organisation issues its own below "
    "its roots.",
    "Channel": "The private network of the organisations: one ledger, one list of members.",
    "Confirmed by, contested by": "Institutions that computed the same version for themselves, or another one.",
    "Consortium": "The organisations that take part, with their roles.",
    "Coordinator": "The organisation that creates tasks and opens rounds. It decides nothing else alone.",
    "Enrol": "An institution says with its signature that it takes part in a task, and with how many samples.",
    "Evidence bundle": "The file that this report was made from: the blocks, the models, and a list of their hashes.",
    "Opening key": "A committee member's key, with which updates are unsealed.",
    "MVCC_READ_CONFLICT": "A transaction without effect: another one, moments before, changed what it was based on. "
    "It is nobody's fault; the sender repeats it where it is still needed, as with the votes of several members.",
    "Outvoted": "Members of the committee whose sum was another than that of the majority.",
    "Task": "One model that institutions train together, under rules that stay as they are.",
    "Unjudged": "An update that the committee did not judge in time.",
    "VALID": "A transaction that all peers took.",
}
"""In no order; a report has them by the alphabet."""
