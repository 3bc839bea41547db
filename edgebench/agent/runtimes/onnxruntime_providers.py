"""Providers of onnxruntime beside its CPU's: a session that really runs on one of them, or none.

Asked for a provider that it cannot give, onnxruntime runs on the CPU, with a line in a log at most. Three things are
looked at, as none is enough alone. A constructor that fails is not repeated with the CPU (`enable_fallback`). A
provider whose libraries do not load is missing in `get_providers`, without an error (onnxruntime issue 23372). And of a
provider that is there, the nodes that it was given are counted: shape arithmetic belongs on the CPU (issue 4940), a
convolution does not.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import Unsupported
from .onnxruntime import PROVIDER as CPU
from .onnxruntime import OrtSession, session_options

_RECORD = "session.record_ep_graph_assignment_info"
# What a network's time goes into; com.microsoft's variants included (FusedConv, MatMulNBits, MultiHeadAttention).
_COMPUTE = re.compile(r"Conv|Gemm|MatMul|Attention|LSTM$|GRU$|RNN$|Einsum$|^QLinear")
# Packages of one import name: the one that was installed last wins, and removing one breaks the other.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")


def load_with(provider: str, install: str) -> Tuple[str, str]:
    """Import an onnxruntime that has `provider`, which `install` installs; its version and its package's name.

    Raises:
        Unsupported: there is none.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise Unsupported("onnxruntime is not installed: %s" % install) from error
    version, package = str(onnxruntime.__version__), getattr(onnxruntime, "package_name", "onnxruntime")
    if provider not in onnxruntime.get_available_providers():
        raise Unsupported("%s %s has no %s: %s" % (package, version, provider, install))
    return version, package


def recording_options(threads: int) -> Any:
    """`onnxruntime.SessionOptions` of a session that will tell which nodes are where."""
    options = session_options(threads)
    options.add_session_config_entry(_RECORD, "1")
    return options


def open_on(
    path: str, options: Any, providers: Sequence[Any], install: str, explain: Callable[[], str] = lambda: ""
) -> Any:
    """An `onnxruntime.InferenceSession` of the first of `providers`, names or pairs of name and options.

    `explain` says why that one may not have loaded, and what to do; nothing if it does not know.

    Raises:
        Unsupported: another one would run the model.
    """
    import onnxruntime

    asked = providers[0] if isinstance(providers[0], str) else providers[0][0]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # Of many types. Without a card, or TensorRT, onnxruntime's words name no remedy.
        why = explain()
        if why:
            raise Unsupported("%s: %s" % (asked, why)) from error
        raise
    found = session.get_providers()[0]
    if found != asked:
        why = explain() or _mixed(install)
        raise Unsupported("%s did not load, and %s would have run the model: %s" % (asked, found, why))
    return session


def open_on_cpu(
    path: str, options: Any, provider: str, settings: Dict[str, str], install: str, facts: Sequence[str] = ()
) -> OrtSession:
    """As `open_on`, for a provider that is fed and answers in host memory; its nodes stand beside its name."""
    session = open_on(path, options, [(provider, settings)], install)
    said = [placement(provider, node_types(session)), *facts]
    return OrtSession(session, "%s (%s)" % (provider, ", ".join(said)))


def node_types(session: Any) -> Optional[Dict[str, List[str]]]:
    """The operator types of a session's nodes by provider; None where this onnxruntime does not tell."""
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    if tell is None:
        return None
    nodes: Dict[str, List[str]] = {}
    for part in tell():
        nodes.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return nodes


def placement(asked: str, nodes: Optional[Dict[str, List[str]]]) -> str:
    """Where `nodes`, operator types by provider, are; in words.

    Raises:
        Unsupported: the provider that was `asked` for has none of them, or the CPU has some that compute.
    """
    if nodes is None:
        return "this onnxruntime does not tell which nodes"
    total = sum(len(types) for types in nodes.values())
    on_cpu = sorted(set(nodes.get(CPU, ())))
    computing = [kind for kind in on_cpu if _COMPUTE.search(kind)]
    if computing or (total and not nodes.get(asked)):
        words = "%s has no kernel for parts of this model, and its %s would have run on the CPU: measure it with the "
        words += "runtime `onnxruntime`, or export it with another opset"
        raise Unsupported(words % (asked, ", ".join(computing or on_cpu or sorted(nodes))))
    said = "%d of %d nodes" % (len(nodes.get(asked, ())), total)
    for provider in sorted(set(nodes) - {asked, CPU}):
        said += ", %d on %s" % (len(nodes[provider]), provider)
    return said + (", %s on the CPU" % " ".join(on_cpu) if on_cpu else "")


def _mixed(install: str) -> str:
    """What is left to say of a library that does not load, and what to do."""
    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    installed = ["`%s`" % package for package in _PACKAGES if package in names]
    if len(installed) > 1:
        return "%s are installed together and overwrite each other: %s" % (" and ".join(installed), install)
    return "its libraries are of other versions than it was built for: " + install
