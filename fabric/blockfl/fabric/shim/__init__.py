"""Serves a Python contract as chaincode-as-a-service: the peer dials, asks for transactions, answers ledger calls."""

from blockfl.fabric.shim.contract import ChaincodeResponse, Context, Contract, ContractFault, LedgerRefusal, Page
from blockfl.fabric.shim.server import ContractServer, ServerTls

__all__ = [
    "ChaincodeResponse",
    "Context",
    "Contract",
    "ContractFault",
    "ContractServer",
    "LedgerRefusal",
    "Page",
    "ServerTls",
]
