"""The state machine of one TCP end, as data (RFC 9293 section 3.3.2).

                              +---------+ ---------\\      active OPEN
                              |  CLOSED |            \\    -----------
                              +---------+<---------\\   \\   create TCB
                                |     ^              \\   \\  snd SYN
                   passive OPEN |     |   CLOSE        \\   \\
                   ------------ |     | ----------       \\   \\
                    create TCB  |     | delete TCB         \\   \\
                                V     |                      \\   \\
              rcv RST (note 1)+---------+            CLOSE    |    \\
           ------------------>|  LISTEN |          ---------- |     |
          /                   +---------+          delete TCB |     |
         /           rcv SYN    |     |     SEND              |     |
        /           ----------- |     |    -------            |     V
+---------+      snd SYN,ACK  /       \\   snd SYN          +---------+
|         |<-----------------           ------------------>|         |
|   SYN   |                    rcv SYN                     |   SYN   |
|   RCVD  |<-----------------------------------------------|   SENT  |
|         |                  snd SYN,ACK                   |         |
|         |------------------           -------------------|         |
+---------+   rcv ACK of SYN  \\       /  rcv SYN,ACK       +---------+
   |         --------------   |     |   -----------
   |                x         |     |     snd ACK
   |                          V     V
   |  CLOSE                 +---------+
   | -------                |  ESTAB  |
   | snd FIN                +---------+
   |                 CLOSE    |     |    rcv FIN
   V                -------   |     |    -------
+---------+         snd FIN  /       \\   snd ACK         +---------+
|  FIN    |<----------------          ------------------>|  CLOSE  |
| WAIT-1  |------------------                            |   WAIT  |
+---------+          rcv FIN  \\                          +---------+
  | rcv ACK of FIN   -------   |                          CLOSE  |
  | --------------   snd ACK   |                         ------- |
  V        x                   V                         snd FIN V
+---------+               +---------+                    +---------+
|FINWAIT-2|               | CLOSING |                    | LAST-ACK|
+---------+               +---------+                    +---------+
  |              rcv ACK of FIN |                 rcv ACK of FIN |
  |  rcv FIN     -------------- |    Timeout=2MSL -------------- |
  |  -------            x       V    ------------        x       V
   \\ snd ACK              +---------+delete TCB          +---------+
     -------------------->|TIME-WAIT|------------------->| CLOSED  |
                          +---------+                    +---------+

The middle sees what an end sends and what reaches it: an end's state moves on SND_* when its segment passes, on RCV_*
when a segment for it is forwarded. A pair that is not listed changes nothing. `track` loads this table into a C array.
"""
STATES = ("CLOSED", "LISTEN", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT",
          "CLOSING", "LAST_ACK", "TIME_WAIT")

INPUTS = ("SND_SYN", "SND_SYN_ACK", "SND_FIN", "SND_RST", "RCV_SYN", "RCV_SYN_ACK", "RCV_ACK_OF_SYN", "RCV_FIN",
          "RCV_ACK_OF_FIN", "RCV_RST", "TIMEOUT")

TRANSITIONS = {
    ("CLOSED", "SND_SYN"): "SYN_SENT",
    ("CLOSED", "RCV_SYN"): "SYN_RECEIVED",
    ("LISTEN", "SND_SYN"): "SYN_SENT",
    ("LISTEN", "RCV_SYN"): "SYN_RECEIVED",
    ("SYN_SENT", "RCV_SYN"): "SYN_RECEIVED",
    ("SYN_SENT", "RCV_SYN_ACK"): "ESTABLISHED",
    ("SYN_SENT", "SND_RST"): "CLOSED",
    ("SYN_SENT", "RCV_RST"): "CLOSED",
    ("SYN_SENT", "TIMEOUT"): "CLOSED",
    ("SYN_RECEIVED", "RCV_ACK_OF_SYN"): "ESTABLISHED",
    ("SYN_RECEIVED", "RCV_SYN_ACK"): "ESTABLISHED",
    ("SYN_RECEIVED", "SND_FIN"): "FIN_WAIT_1",
    ("SYN_RECEIVED", "RCV_FIN"): "CLOSE_WAIT",
    ("SYN_RECEIVED", "SND_RST"): "CLOSED",
    ("SYN_RECEIVED", "RCV_RST"): "CLOSED",
    ("SYN_RECEIVED", "TIMEOUT"): "CLOSED",
    ("ESTABLISHED", "SND_FIN"): "FIN_WAIT_1",
    ("ESTABLISHED", "RCV_FIN"): "CLOSE_WAIT",
    ("ESTABLISHED", "SND_RST"): "CLOSED",
    ("ESTABLISHED", "RCV_RST"): "CLOSED",
    ("FIN_WAIT_1", "RCV_ACK_OF_FIN"): "FIN_WAIT_2",
    ("FIN_WAIT_1", "RCV_FIN"): "CLOSING",
    ("FIN_WAIT_1", "SND_RST"): "CLOSED",
    ("FIN_WAIT_1", "RCV_RST"): "CLOSED",
    ("FIN_WAIT_2", "RCV_FIN"): "TIME_WAIT",
    ("FIN_WAIT_2", "SND_RST"): "CLOSED",
    ("FIN_WAIT_2", "RCV_RST"): "CLOSED",
    ("CLOSE_WAIT", "SND_FIN"): "LAST_ACK",
    ("CLOSE_WAIT", "SND_RST"): "CLOSED",
    ("CLOSE_WAIT", "RCV_RST"): "CLOSED",
    ("CLOSING", "RCV_ACK_OF_FIN"): "TIME_WAIT",
    ("CLOSING", "SND_RST"): "CLOSED",
    ("CLOSING", "RCV_RST"): "CLOSED",
    ("LAST_ACK", "RCV_ACK_OF_FIN"): "CLOSED",
    ("LAST_ACK", "SND_RST"): "CLOSED",
    ("LAST_ACK", "RCV_RST"): "CLOSED",
    ("TIME_WAIT", "TIMEOUT"): "CLOSED",
    ("TIME_WAIT", "SND_RST"): "CLOSED",
    ("TIME_WAIT", "RCV_RST"): "CLOSED",
}


def matrix():
    """The full state x input table as bytes, row by row: what `track` indexes and the snapshot test prints."""
    return bytes(STATES.index(TRANSITIONS.get((s, i), s)) for s in STATES for i in INPUTS)


def dot():
    """The graph in Graphviz's language."""
    edges = {}
    for (old, cause), new in TRANSITIONS.items():
        edges.setdefault((old, new), []).append(cause)
    lines = [f'  {a} -> {b} [label="{", ".join(c)}"];' for (a, b), c in edges.items()]
    return "digraph tcp {\n" + "\n".join(lines) + "\n}\n"
