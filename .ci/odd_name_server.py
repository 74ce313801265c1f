"""The name server behind dnsmasq in name-server.sh: fails, waits or says nothing, by the name that it is asked for. UDP and TCP."""

import socket
import struct
import sys
import threading
import time

PORT = int(sys.argv[1])


def answer(query):
    name, at = [], 12
    while query[at]:
        name.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
    question = query[12 : at + 5]
    first = name[0]
    if first == "mute":
        return None
    if first == "slow":
        time.sleep(1)
    code = {"broken": 2, "refused": 5}.get(first, 0)
    records = 1 if code == 0 and kind == 1 and first != "empty" else 0
    reply = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, records, 0, 0) + question
    if records:
        reply += struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + bytes([127, 0, 0, 1])
    return reply


def udp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", PORT))

    def one(query, peer):
        reply = answer(query)
        if reply:
            sock.sendto(reply, peer)

    while True:
        threading.Thread(target=one, args=sock.recvfrom(4096), daemon=True).start()


udp()
