"""Conversations to try handlers on, and faults to try them with: `tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"hi")`."""
from mos.testing import fault
from mos.testing.conversation import Conversation, icmp_echo, merge, udp
from mos.testing.packets import Packet
from mos.testing.run import Answer, Result, run
from mos.testing.tcp_conversation import TcpConversation, tcp

__all__ = ["Answer", "Conversation", "Packet", "Result", "TcpConversation", "fault", "icmp_echo", "merge", "run", "tcp", "udp"]
