"""How a connection went, in Zeek's words: `conn_state` of conn.log, derived from what each end was seen to send."""


def conn_state(flow, reason):
    """Zeek's conn_state for a flow at its end. `reason` is FlowEnd's.

    S0 no answer, S1 open, SF closed by both, REJ refused, S2/S3 half closed by client/server, RSTO/RSTR reset by
    client/server, RSTOS0/RSTRH reset by client/server whose peer opened nothing that was seen, SH/SHR closed by
    client/server alike, OTH nothing of that. As Zeek's scripts decide: an end whose part of the handshake was not seen
    counts as silent, whatever it sent.
    """
    if flow.proto != "tcp":
        if flow.client_packets and flow.server_packets:
            return "SF"
        return "S0" if flow.client_packets else "SHR"
    h = flow.history
    server = "h" in h or "s" in h                                       # opened, as far as was seen
    client = "S" in h or ("h" in h and ("A" in h or "D" in h))
    if "R" in h or "r" in h:
        return _reset(h, client, server)
    if "F" in h and "f" in h:
        return "SF"
    if "F" in h:
        return "S2" if server else "SH"
    if "f" in h:
        return "S3" if client else "SHR"
    if client and server:
        return "S1"
    return "S0" if client and not flow.server_packets else "OTH"


def _reset(h, client, server):
    if "R" in h and ("r" not in h or h.index("R") < h.index("r")):
        return "RSTO" if server else "RSTOS0"
    if not client:
        return "RSTRH"
    return "RSTR" if server else "REJ"
