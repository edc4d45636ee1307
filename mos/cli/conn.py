"""How a connection went, in Zeek's words: `conn_state` of conn.log, derived from what each end was seen to send."""


def conn_state(flow, reason):
    """Zeek's conn_state for a flow at its end. `reason` is FlowEnd's.

    S0 no answer, S1 open, SF closed in order, REJ refused, S2/S3 half closed by client/server, RSTO/RSTR reset by
    client/server, RSTOS0 SYN then RST and no answer, RSTRH SYN-ACK then RST without a SYN, SH/SHR half of a handshake then
    FIN, OTH neither end's handshake was seen.
    """
    if flow.proto != "tcp":
        if flow.client_packets and flow.server_packets:
            return "SF"
        return "S0" if flow.client_packets else "SHR"
    h = flow.history
    syn, syn_ack = "S" in h, "h" in h
    fin_client, fin_server = "F" in h, "f" in h
    if "R" in h or "r" in h:
        return _reset(h, syn, syn_ack)
    if syn and syn_ack:
        if fin_client and fin_server:
            return "SF"
        return "S2" if fin_client else "S3" if fin_server else "S1"
    if syn:
        if fin_client and not flow.server_packets:
            return "SH"
        return "S0" if not flow.server_packets else _seen_open(fin_client, fin_server)
    if syn_ack and not flow.client_packets:
        return "SHR" if fin_server else "OTH"
    return "OTH"


def _seen_open(fin_client, fin_server):
    """A SYN, and an answer that is no SYN-ACK: the tap missed it."""
    if fin_client and fin_server:
        return "SF"
    return "S2" if fin_client else "S3" if fin_server else "S1"


def _reset(h, syn, syn_ack):
    by_client = "R" in h and ("r" not in h or h.index("R") < h.index("r"))
    if syn and syn_ack:
        return "RSTO" if by_client else "RSTR"
    if syn:
        return "RSTOS0" if by_client else "REJ"
    if syn_ack:
        return "RSTRH" if not by_client else "OTH"
    return "OTH"
