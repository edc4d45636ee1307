"""transfer.py serve|send ADDRESS PORT BYTES: sends so many bytes each way over TCP and prints what the other end said.

`serve` prints "ready", then the digest of what came. Both directions at once, each with bytes that tell their place.
"""
import hashlib
import socket
import sys
import threading

CHUNK = 1 << 16


def stream(seed, size):
    block = hashlib.sha512(seed.encode()).digest() * (CHUNK // 64)
    for at in range(0, size, CHUNK):
        yield at.to_bytes(8, "big") + block[:min(CHUNK, size - at) - 8] if size - at > 8 else bytes(size - at)


def digest(seed, size):
    return hashlib.sha256(b"".join(stream(seed, size))).hexdigest()


def talk(s, mine, size):
    def send():
        for piece in stream(mine, size):
            s.sendall(piece)
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    got = hashlib.sha256()
    while data := s.recv(CHUNK):
        got.update(data)
    sender.join()
    print(got.hexdigest(), flush=True)


def main(what, address, port, size):
    if what == "serve":
        server = socket.create_server((address, int(port)))
        print("ready", flush=True)
        talk(server.accept()[0], "server", int(size))
    else:
        s = socket.create_connection((address, int(port)), timeout=30)
        talk(s, "client", int(size))


if __name__ == "__main__":
    main(*sys.argv[1:])
