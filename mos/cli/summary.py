"""The counters of a run in words."""


def sentence(stats, written):
    """The run in one line."""
    def count(n, what):
        return f"{n} {what}{'' if n == 1 else 's'}"
    dropped = sum(stats["dropped"].values())
    parts = [f"mos: {count(stats['packets_in'], 'packet')}, {count(stats['flows'], 'flow')}"]
    if dropped:
        by = ", ".join(f"{name} {n}" for name, n in stats["dropped"].items())
        parts.append(f"{dropped} {'dropped' if written else 'would be dropped'} ({by})")
    if stats["injected"]:
        parts.append(f"{stats['injected']} {'injected' if written else 'would be injected'}")
    return ", ".join(parts) + f", {stats['seconds']:.2f} s"


def port_lines(ports):
    """What each interface saw, and what was lost there."""
    for name, c in ports.items():
        lost = {"ring full": c["kernel_drops"], "too long": c["truncated"]} | {
            f"not sent, {cause.replace('_', ' ')}": n for cause, n in c["unsent"].items()}
        said = "".join(f", {n} lost ({cause})" for cause, n in lost.items() if n)
        yield f"mos: {name}: {c['received']} received, {c['sent']} sent{said}"


def wires(interface, inline):
    """What -i named, in words."""
    return f"between {' and '.join(interface.split(':'))}" if inline else f"on a tap of {interface}"
