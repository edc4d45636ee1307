"""What is recorded: each scene is a function that sets up a network, starts real programs and captures what they say."""
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from net import HERE, direct, over_trunk, through_relay

SCENES = {}
NAME = "www.example.test"
PEERS = HERE / "peers.py"
LINE = "%05d the quick brown fox jumps over the lazy dog\n"     # 50 bytes: compressible, and every offset is told by its line
NGINX = """daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 64; }}
http {{ access_log off; default_type text/plain; keepalive_timeout 5;
client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
server {{ listen 80 fastopen=16; {extra} server_name {name}; root {dir}/www; }} }}
"""


@dataclass
class Scene:
    """`shows` and `recorded` are for people; `chain` is what to run on it; `dump` names the capturing program."""
    name: str
    make: Callable
    shows: str
    recorded: str
    chain: tuple
    dump: str

    @property
    def file(self):
        return self.name + (".pcapng" if self.dump == "dumpcap" else ".pcap")


def scene(shows, recorded, chain, dump="tcpdump"):
    def register(function):
        SCENES[function.__name__] = Scene(function.__name__, function, shows, recorded, chain, dump)
        return function
    return register


def peer(net, name, *arguments, space="client"):
    return net.run(space, sys.executable, PEERS, name, *arguments)


def nginx(net, extra="", **files):
    """nginx in "server", serving `files`: a name and a number of 50-byte lines each."""
    root = net.scratch / "www"
    root.mkdir()
    (root / "index.html").write_text(f"<html><body>{NAME}</body></html>\n")
    for name, lines in files.items():
        (root / name).write_text("".join(LINE % i for i in range(lines)))
    config = net.scratch / "nginx.conf"
    config.write_text(NGINX.format(dir=net.scratch, name=NAME, extra=extra))
    net.spawn("server", "nginx", "-c", config, "-e", net.scratch / "error.log", port=80)


def curl(net, *arguments, host="10.77.0.2", ok=(0,)):
    pins = [a for port in (80, 81, 443) for a in ("--resolve", f"{NAME}:{port}:{host}")]
    return net.run("client", "curl", "-sS", "-q", "-o", os.devnull, *pins, *arguments, ok=ok)


@scene("four requests on one connection, one of them for what is not there", "nginx, one curl",
       ("monitor", "accounting"))
def http_keepalive(net):
    direct(net)
    nginx(net, page=60, style=20)
    out = ("-o", os.devnull)
    with net.capture():
        curl(net, f"http://{NAME}/", *out, f"http://{NAME}/page", *out, f"http://{NAME}/style", *out, f"http://{NAME}/none")


@scene("one download of 300,000 bytes in full frames", "nginx, curl", ("monitor", "accounting"), "dumpcap")
def http_download(net):
    direct(net)
    nginx(net, large=6000)
    with net.capture():
        curl(net, f"http://{NAME}/large")


@scene("a download over IPv6, with neighbour discovery", "nginx, curl -6", ("monitor", "accounting"))
def http_ipv6(net):
    direct(net, v6=True)
    nginx(net, extra="listen [::]:80;", page=400)
    time.sleep(2)       # let the group membership reports of the new interfaces pass
    with net.capture():
        curl(net, "-6", f"http://{NAME}/page", host="[fd77::2]")


@scene("a download through a network that drops, doubles and reorders, seen at the client",
       "nginx, curl, relay.py --drop 0.03 --duplicate 0.03 --reorder 0.08 --seed 7", ("monitor",), "dumpcap")
def http_lossy(net):
    through_relay(net, sys.executable, "--drop", 0.03, "--duplicate", 0.03, "--reorder", 0.08, "--seed", 7)
    nginx(net, large=3000)
    with net.capture():
        curl(net, f"http://{NAME}/large")


@scene("the same kind of download, seen at the server: what is lost is there, what was lost on the way in is not",
       "nginx, curl, relay.py --drop 0.04 --reorder 0.05 --seed 3", ("monitor",))
def http_lossy_server(net):
    through_relay(net, sys.executable, "--drop", 0.04, "--reorder", 0.05, "--seed", 3)
    nginx(net, large=2000)
    with net.capture("server"):
        curl(net, f"http://{NAME}/large")


@scene("two downloads at the same time", "nginx, curl --parallel", ("monitor", "accounting", "nat"))
def http_two(net):
    direct(net)
    nginx(net, one=2000, two=2400)
    with net.capture():
        curl(net, "--parallel", "--parallel-immediate", "--limit-rate", "400k",
             f"http://{NAME}/one", "-o", os.devnull, f"http://{NAME}/two")


@scene("a download with 802.1Q tags (VLAN 77)", "nginx, curl; captured between two relay.py --tag 77", ("monitor",))
def http_vlan(net):
    over_trunk(net, sys.executable, 77)
    nginx(net, page=400)
    with net.capture("west", "trunk"):
        curl(net, f"http://{NAME}/page")


@scene("TCP Fast Open: the second and third connection carry the request on the SYN", "nginx, curl --tcp-fastopen",
       ("monitor",))
def http_fastopen(net):
    direct(net)
    net.setting("client", "ipv4/tcp_fastopen", 1)
    net.setting("server", "ipv4/tcp_fastopen", 2)
    nginx(net, page=40)
    with net.capture():
        for _ in range(3):
            curl(net, "--tcp-fastopen", f"http://{NAME}/page")


@scene("requests that an intrusion detection should know", "nginx, curl with paths and headers of well-known attacks",
       ("ids", "monitor"))
def http_attacks(net):
    direct(net)
    nginx(net)
    with net.capture():
        curl(net, "--path-as-is", f"http://{NAME}/../../etc/passwd")
        curl(net, "-A", "() { :; }; /bin/true", f"http://{NAME}/cgi-bin/status")
        curl(net, f"http://{NAME}/item?id=1%20UNION%20SELECT%20password%20FROM%20users")


@scene("HTTPS with a certificate that signs itself", "nginx with a throw-away key, curl --insecure", ("monitor", "ids"),
       "dumpcap")
def https(net):
    direct(net)
    key, certificate = net.scratch / "key.pem", net.scratch / "certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "1", "-subj", f"/CN={NAME}", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    nginx(net, extra=f"listen 443 ssl; ssl_certificate {certificate}; ssl_certificate_key {key};", page=300)
    with net.capture():
        curl(net, "--insecure", f"https://{NAME}/page")


@scene("the client resets in the middle of a download", "nginx, peers.py abort", ("monitor",))
def reset(net):
    direct(net)
    nginx(net, large=2000)
    with net.capture():
        peer(net, "abort", "10.77.0.2", 80, "/large")


@scene("connections to a closed port over IPv4 and IPv6", "curl", ("monitor", "firewall"))
def refused(net):
    direct(net, v6=True)
    time.sleep(2)
    with net.capture():
        curl(net, f"http://{NAME}:81/", ok=(7,))
        curl(net, "-6", f"http://{NAME}:81/", host="[fd77::2]", ok=(7,))


@scene("names asked for over UDP and TCP: A, AAAA, a name that is not there, an answer too long for UDP",
       "dnsmasq, dig", ("monitor", "accounting"))
def dns(net):
    direct(net)
    dnsmasq(net, many=12)
    with net.capture():
        for question in (("www.example.test", "A"), ("www.example.test", "AAAA"), ("none.example.test", "A"),
                         ("+tcp", "www.example.test", "A"), ("+noedns", "many.example.test", "TXT")):
            dig(net, *question)


@scene("a UDP answer of some 3,000 bytes in IP fragments", "dnsmasq, dig +bufsize=4096", ("monitor",))
def dns_fragments(net):
    direct(net)
    dnsmasq(net, many=20)
    with net.capture():
        dig(net, "+bufsize=4096", "+ignore", "many.example.test", "TXT")


def dnsmasq(net, many):
    texts = [f"--txt-record=many.example.test,{str(i % 10) * 140}" for i in range(many)]
    net.spawn("server", "dnsmasq", "-k", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--local=/example.test/",
              "--user=root", "--group=root", "--pid-file=", "--edns-packet-max=4096", "--listen-address=10.77.0.2",
              "--bind-interfaces",
              "--host-record=www.example.test,10.77.0.2,fd77::2", *texts, port=53)


def dig(net, *question):
    net.run("client", "dig", "-r", "@10.77.0.2", "+nocookie", "+tries=1", *question)


@scene("an ssh session with one command", "OpenSSH with throw-away keys", ("monitor", "accounting"), "dumpcap")
def ssh(net):
    direct(net)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", net.scratch / name], check=True)
    os.makedirs("/run/sshd", exist_ok=True)
    config = net.scratch / "sshd_config"
    config.write_text(f"HostKey {net.scratch}/host\nAuthorizedKeysFile {net.scratch}/user.pub\nStrictModes no\n"
                      "UsePAM yes\nPidFile none\nPermitRootLogin prohibit-password\nPrintMotd no\nPrintLastLog no\n")
    net.spawn("server", "/usr/sbin/sshd", "-D", "-e", "-f", config, port=22)
    with net.capture():
        net.run("client", "ssh", "-F", "none", "-i", net.scratch / "user", "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", "root@10.77.0.2", "seq 1 500")


@scene("the client closes its half first, the server answers on the other half afterwards",
       "socat with sha256sum behind it, peers.py half_close", ("monitor",))
def half_close(net):
    direct(net)
    net.spawn("server", "socat", "-t", "5", "TCP-LISTEN:7000", "EXEC:sha256sum", port=7000)
    with net.capture():
        peer(net, "half_close", "10.77.0.2", 7000)


@scene("120 ports tried one after the other, two of them open", "peers.py scan, nginx", ("portscan", "monitor"))
def portscan(net):
    direct(net)
    nginx(net, extra="listen 8080;")
    with net.capture():
        peer(net, "scan", "10.77.0.2", *range(20, 139), 8080)


@scene("pings over IPv4 and IPv6, small and in fragments", "ping -c 3, ping -c 2 -s 3000", ("monitor",))
def ping(net):
    direct(net, v6=True)
    time.sleep(2)
    with net.capture():
        for host in ("10.77.0.2", "fd77::2"):
            net.run("client", "ping", "-q", "-c", "3", "-i", "0.2", host)
            net.run("client", "ping", "-q", "-c", "2", "-i", "0.2", "-s", "3000", host)


@scene("a plain-text session on port 23, one segment a key", "peers.py telnet_server and type_lines", ("firewall", "monitor"))
def telnet(net):
    direct(net)
    net.spawn("server", sys.executable, PEERS, "telnet_server", 23, port=23)
    with net.capture():
        peer(net, "type_lines", "10.77.0.2", 23)


@scene("a receiver that does not read for 1.2 s: zero window, probes, window update", "socat sending a file, peers.py slow_reader",
       ("monitor",))
def zero_window(net):
    direct(net)
    body = net.scratch / "body"
    body.write_text("".join(LINE % i for i in range(1200)))
    net.spawn("server", "socat", "-u", f"OPEN:{body}", "TCP-LISTEN:7001", port=7001)
    with net.capture():
        peer(net, "slow_reader", "10.77.0.2", 7001)


@scene("three seconds of silence with keep-alives", "socat echoing, peers.py idler", ("monitor",))
def keep_alive(net):
    direct(net)
    net.spawn("server", "socat", "TCP-LISTEN:7", "EXEC:cat", port=7)
    with net.capture():
        peer(net, "idler", "10.77.0.2", 7)
