"""The few clients and servers that no ready program gives: each a function, run as `peers.py NAME ARGUMENTS`."""
import socket
import struct
import sys
import time

PAUSE = 0.05


def half_close(host, port):
    """Send, shut down the sending side, then read the answer to its end."""
    with socket.create_connection((host, int(port))) as s:
        for i in range(20):
            s.sendall(b"line %d of what the server is to count\n" % i)
        s.shutdown(socket.SHUT_WR)
        while s.recv(4096):
            pass


def abort(host, port, path):
    """Ask for a file, read a little and reset the connection."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)     # else all of the file is under way before the reset
    s.connect((host, int(port)))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: www.example.test\r\n\r\n".encode())
    s.recv(4096)
    s.close()


def scan(host, *ports):
    """Try each port once, closing at once what opens."""
    for port in ports:
        with socket.socket() as s:
            s.settimeout(1)
            s.connect_ex((host, int(port)))


def type_lines(host, port):
    """A person at a terminal: one segment for each key."""
    with socket.create_connection((host, int(port))) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for line in ("guest", "letmein", "hello there", "exit"):
            time.sleep(PAUSE)
            s.recv(4096)
            for key in line + "\r\n":
                s.sendall(key.encode())
                time.sleep(0.01)
        while s.recv(4096):
            pass


def telnet_server(port):
    """Ask for a name and a password in plain text, answer lines, leave on "exit"."""
    with socket.create_server(("", int(port))) as listener:
        s, _ = listener.accept()
        with s, s.makefile("rw", newline="\r\n") as f:
            for prompt in ("example.test login: ", "Password: "):
                print(prompt, end="", file=f, flush=True)
                f.readline()
            print("Welcome.\n$ ", end="", file=f, flush=True)
            while (line := f.readline().strip()) != "exit":
                print(f"{line}: not found\n$ ", end="", file=f, flush=True)


def slow_reader(host, port):
    """A small receive buffer that is not read for a while: the window closes, is probed, and opens again."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        s.connect((host, int(port)))
        time.sleep(1.2)
        while s.recv(65536):
            pass


def idler(host, port):
    """Say something, then be quiet with keep-alives on for 3.5 s."""
    with socket.create_connection((host, int(port))) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        s.sendall(b"still here?\n")
        s.recv(100)
        time.sleep(3.5)
        s.sendall(b"yes\n")
        s.recv(100)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
