"""What the rules of findings are about, for machines that list them.

The rules about values are said beside the code that applies them (`value_flags.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["POLICY", "RULES", "about"]

RULES: Mapping[str, str] = {
    "integrity/unreadable": "The model cannot be opened: an index, a header or a list is damaged.",
    "integrity/damaged": "Bytes differ from their checksum, or contradict the format.",
    "integrity/missing-data": "A tensor is listed, and its bytes are not there.",
    "integrity/missing-file": "A file that belongs to the model is not there.",
    "integrity/stray-file": "A file looks like a part of the model, and is none.",
    "integrity/unlisted-bytes": "A file holds bytes that nothing in it lists.",
    "integrity/shared-bytes": "Several entries claim the same bytes.",
    "integrity/orphan-slice": "A part of a partitioned tensor belongs to no tensor.",
    "integrity/size": "A size that is written down is not the true one.",
    "integrity/leftover": "A save was interrupted.",
    "integrity/stale-state": "A state file names checkpoints that are not there.",
    "security/unsafe-file": "The file asks for what no weights need: a link out, a bomb.",
    "security/oversize": "A tensor claims far more bytes than all files hold.",
    "security/python-op": "A graph calls Python.",
    "security/file-write-op": "A graph writes files.",
    "security/file-read-op": "A graph reads files.",
    "security/data-op": "A graph reads files of data, as for training.",
    "security/network-op": "A graph reaches out to the network.",
    "security/code-op": "A graph runs machine code by name, or ends its process.",
    "security/asset-op": "A graph reads a vocabulary from a file.",
    "security/save-op": "A graph saves a checkpoint at a place of its own choice.",
    "security/restore-op": "A graph reads a checkpoint at a place of its own choice.",
    "security/custom-op": "A graph has an operation that TensorFlow alone does not have.",
    "security/lambda": "A Keras config has a Lambda layer: Python that is run.",
    "security/bytecode": "A config holds code that is run when it is loaded.",
    "security/unsafe-reference": "A config names a function or class that no layer needs.",
    "security/external-file": "A config or list names a file outside of the model.",
    "security/custom-object": "A config names a class or function that is not of Keras.",
}

# Of the gates that `convert package --policy` lets nothing through.
POLICY: Mapping[str, str] = {
    "policy/nan": "A tensor holds values that are not a number, and the policy forbids them.",
    "policy/infinity": "A tensor holds infinite values, and the policy forbids them.",
    "policy/bytes": "The tensors take more bytes than the policy allows.",
    "policy/parameters": "The tensors have more elements than the policy allows.",
    "policy/dtype": "A tensor has a type that the policy does not allow.",
    "policy/optimizer-state": "A tensor is for training alone, and the policy forbids that.",
    "policy/forbidden-name": "A tensor has a name that the policy forbids.",
    "policy/required-name": "No tensor has a name that the policy requires.",
    "policy/digest": "The weights are not those that the policy names by their digest.",
    "policy/risk": "The source holds what is dangerous to load, and the policy forbids that.",
    "policy/metric": "A metric that the policy requires is missing, or out of its bounds.",
    "policy/license": "There is no licence, or none that the policy allows.",
}


def about(rule: str) -> str:
    """Return what a rule is about."""
    from .value_flags import RULES as VALUES

    known = {**RULES, **VALUES, **POLICY}
    return known.get(rule, "Found by a plug-in.")
