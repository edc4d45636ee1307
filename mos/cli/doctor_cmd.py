"""`mos doctor A:B`: looks at what a live run needs, and says what to change and how."""
import json
import os
from dataclasses import asdict

from mos.errors import UsageError

EPILOG = """\
Nothing is changed. Exit status: 0 nothing to change; 1 it runs, but something should be changed; 2 it does not run so.

examples:
  mos doctor eth1:eth2          before mos run … -i eth1:eth2
  mos doctor eth0 --json        a tap, for a program
"""
MARKS = {"ok": "ok    ", "change": "change", "stop": "STOP  "}


def add_parser(subparsers):
    """Enter the subcommand's options."""
    p = subparsers.add_parser("doctor", help="look at what a live run needs, and say what to change", epilog=EPILOG,
                              description="Examine one interface to tap, or two to bridge: link, MTU, offloads, "
                              "who else uses them, privileges, what the kernel can do.")
    p.add_argument("interface", metavar="A:B", help="two interfaces to bridge, or one to tap")
    p.add_argument("--json", action="store_true", help="findings as one line of JSON")
    p.add_argument("-q", "--quiet", action="store_true", help="only what is to be changed")
    p.set_defaults(run=run)


def run(args):
    """The subcommand; returns the exit status."""
    from mos.doctor import OK, examine, status
    names = [name.strip() for name in args.interface.split(":")]
    if not all(names) or len(names) > 2 or len(set(names)) < len(names):
        raise UsageError(f"{args.interface}: name one interface, or two different ones: mos doctor A:B")
    findings = examine(names)
    if args.json:
        print(json.dumps({"status": status(findings), "findings": [asdict(f) for f in findings]}))
        return status(findings)
    sudo = "" if os.geteuid() == 0 else "sudo "
    for finding in findings:
        if finding.level == OK and args.quiet:
            continue
        print(f"{MARKS[finding.level]}  {finding.text}")
        if finding.fix:
            print(f"        $ {sudo}{finding.fix}")
    if not args.quiet:
        print(["nothing to change", "it runs; better change what is marked", "it does not run so"][status(findings)])
    return status(findings)
