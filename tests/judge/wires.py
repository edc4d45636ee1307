"""Two hosts in network namespaces and this process' own namespace between them. All of it goes when the process does.

Call `own_namespace` first: it starts the program anew in a network namespace of its own, as root or in a user namespace.
"""
import os
import shutil
import subprocess
import sys

from plan import CLIENT, SERVER

INSIDE = "MOS_JUDGE_INSIDE"
PROGRAMS = ("ip", "ethtool", "gcc", "unshare", "nsenter")
# Frames must be as long as on a wire and summed: nothing is left to a card.
OFFLOADS = ("tso", "gso", "gro", "tx", "rx")
MACS = {"left": "02:78:00:00:00:01", "right": "02:78:00:00:00:02", "client": "02:78:00:00:00:03", "server": "02:78:00:00:00:04"}


def unshare():
    """The command that gives a program its own network, or None: why not."""
    absent = [p for p in PROGRAMS if not shutil.which(p)]
    if absent:
        return None, f"no {', '.join(absent)}: apt-get install iproute2 ethtool gcc util-linux"
    command = ["unshare", "-nm"] if os.geteuid() == 0 else ["unshare", "-Urnm"]
    tried = subprocess.run([*command, "ip", "link", "add", "left", "type", "veth", "peer", "right"], capture_output=True, text=True)
    return (command, "") if tried.returncode == 0 else (None, f"no network of our own: {' '.join(command)}: {tried.stderr.strip()}")


def own_namespace():
    """Start this program anew in a network namespace of its own, unless it is in one; exits when there cannot be one."""
    if os.environ.get(INSIDE):
        return
    command, reason = unshare()
    if command is None:
        sys.exit(f"judge: NOT RUN: {reason}")
    os.execvpe(command[0], [*command, sys.executable, *sys.argv], os.environ | {INSIDE: "1"})


class Host:
    """A namespace, kept by a process that ends when this one does."""

    def __init__(self, name):
        self.keeper = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.keeper.stdout.readline()
        self.name, self.pid = name, self.keeper.pid
        self.enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def run(self, *command):
        subprocess.run([*self.enter, *command], check=True)

    def setting(self, path, value):
        """A sysctl below net/; what this kernel does not have is left."""
        subprocess.run([*self.enter, "sh", "-c", f"echo {value} >/proc/sys/net/{path}"], stderr=subprocess.DEVNULL)

    def close(self):
        self.keeper.stdin.close()
        self.keeper.wait()


def plain(enter, device):
    for what in OFFLOADS:
        subprocess.run([*enter, "ethtool", "-K", device, what, "off"], check=True, capture_output=True)


def quiet(run, device, mac):
    run("ip", "link", "set", device, "address", mac)
    run("ip", "link", "set", device, "up")


def joined(name, device):
    """A host on a wire to our `device`. Neighbours are fixed, so that nothing but the connections is on the wire."""
    host = Host(name)
    other, mine, its = ("server", CLIENT, SERVER) if name == "client" else ("client", SERVER, CLIENT)
    subprocess.run(["ip", "link", "add", device, "type", "veth", "peer", "eth0", "netns", str(host.pid)], check=True)
    host.setting("ipv6/conf/all/accept_dad", 0)
    host.setting("ipv6/conf/default/router_solicitations", 0)
    host.setting("ipv4/tcp_rto_min_us", 5000)       # the wire is short: a fifth of a second for each loss only costs time
    host.setting("ipv4/tcp_rto_max_ms", 1000)       # likewise: without SACK and timestamps it doubles up to a minute
    host.setting("ipv4/tcp_retries2", 100)          # and patience is counted in time-outs
    host.setting("ipv4/tcp_fastopen", 0x607)        # both ways, without cookies, for every listener
    host.run("ip", "link", "set", "lo", "up")
    quiet(host.run, "eth0", MACS[name])
    quiet(lambda *c: subprocess.run(c, check=True), device, MACS[device])
    plain(host.enter, "eth0")
    plain([], device)
    for v6 in (False, True):
        host.run("ip", "address", "add", f"{mine[v6]}/{64 if v6 else 24}", "dev", "eth0", *(["nodad"] if v6 else []))
        host.run("ip", "neighbour", "add", its[v6], "lladdr", MACS[other], "dev", "eth0", "nud", "permanent")
    return host


class Network:
    """The client's host and the server's."""

    def __init__(self):
        self.hosts = joined("client", "left"), joined("server", "right")

    def close(self):
        """They and their connections go, whatever state these are in."""
        for host, device in zip(self.hosts, ("left", "right")):
            host.close()
            subprocess.run(["ip", "link", "delete", device], stderr=subprocess.DEVNULL)     # may have gone with the host
