"""What the ranks' first meeting needs of this machine: a name that resolves and the interfaces that are named."""

import os
import socket
from collections.abc import Iterator

from pref_dist.doctor.finding import Finding, Question

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def check_host_name(question: Question) -> Iterator[Finding]:
    """Gloo looks up this machine's own name to find the interface that it talks through."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        yield Finding(
            "host name", "warning", f"{name} does not resolve: {error.strerror or error}",
            "Add it to /etc/hosts, or export GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME with the interface to use.",
        )  # fmt: skip
        return
    note = " (this machine alone can use that)" if address.startswith("127.") else ""
    yield Finding("host name", "ok", f"{name} is {address}{note}")


def check_interfaces(question: Question) -> Iterator[Finding]:
    """Compare the interfaces that gloo and NCCL are told to use with those that are here."""
    here = [name for _, name in socket.if_nameindex()]
    named = {name: os.environ[name] for name in INTERFACE_VARIABLES if os.environ.get(name)}
    seen = f"here: {', '.join(here)}"
    for variable, text in named.items():
        if not any(is_meant(text, name) for name in here):
            remedy = f"unset {variable}, or name one of them."
            yield Finding("interfaces", "error", f"{variable}={text} names none; {seen}", remedy)
            return
    settings = ", ".join(f"{name}={value}" for name, value in named.items())
    yield Finding("interfaces", "ok", f"{seen}; {settings or 'gloo and NCCL choose by themselves'}")


def is_meant(text: str, interface: str) -> bool:
    """Whether a setting names an interface, as NCCL reads it: beginnings; =: whole names; ^: all others."""
    if text.startswith("^"):
        return not is_meant(text[1:], interface)
    exact = text.startswith("=")
    names = [name.split(":")[0] for name in text.lstrip("=").split(",")]
    return any(interface == name if exact else interface.startswith(name) for name in names)
