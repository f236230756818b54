#!/usr/bin/env python3
"""Note 0008: who put an address there, and what goes with it when it goes."""

import json
import os
import shutil
import socket
import struct
import subprocess

from common import LIBC, finish, holds, skip

CLONE_NEWNET = 0x40000000
NEWADDR, GETADDR, DONE, ERROR = 20, 22, 3, 2
REQUEST, ACK, DUMP, EXCLUSIVE, CREATE = 1, 4, 0x300, 0x200, 0x400
ADDRESS, LOCAL, CACHEINFO, FLAGS, PROTO = 1, 2, 6, 8, 11
NODAD = 2
OURS = 123


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def attribute(kind, value):
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ask(kind, flags, body):
    """The bodies of the kernel's answers to one request."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.send(struct.pack("IHHII", 16 + len(body), kind, REQUEST | flags, 1, 0) + body)
        answers = []
        while True:
            data = link.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("IH", data)
                if kind in (DONE, ERROR):
                    error = struct.unpack_from("i", data, 16)[0]
                    assert error == 0, os.strerror(-error)
                    return answers
                answers.append(data[16:length])
                data = data[(length + 3) // 4 * 4 :]


def add(address, prefix, index):
    """Adds an address with our number; an IPv6 one with its preferred time over."""
    packed = socket.inet_pton(family(address), address)
    body = struct.pack("BBBBI", family(address), prefix, 0, 0, index)
    body += attribute(LOCAL, packed) + attribute(ADDRESS, packed) + attribute(PROTO, bytes([OURS]))
    if family(address) == socket.AF_INET6:
        body += attribute(FLAGS, struct.pack("I", NODAD))
        body += attribute(CACHEINFO, struct.pack("IIII", 0, 0xFFFFFFFF, 0, 0))
    ask(NEWADDR, ACK | EXCLUSIVE | CREATE, body)


def protocol(address):
    """The number of who put an address there, or None."""
    packed = socket.inet_pton(family(address), address)
    for body in ask(GETADDR, DUMP, struct.pack("BBBBI", family(address), 0, 0, 0, 0)):
        found, rest = {}, body[8:]
        while rest:
            length, kind = struct.unpack_from("HH", rest)
            found[kind] = rest[4:length]
            rest = rest[(length + 3) // 4 * 4 :]
        if packed in (found.get(LOCAL), found.get(ADDRESS)):
            return found[PROTO][0] if PROTO in found else None
    raise LookupError(address)


def source(target):
    return json.loads(ip("-j", "route", "get", target))[0]["prefsrc"]


def check():
    ip("link", "add", "d0", "type", "veth", "peer", "name", "d1")
    for link in ["d0", "d1"]:
        ip("link", "set", link, "up")
    ip("address", "add", "10.99.0.1/24", "dev", "d0")
    ip("address", "add", "fd00:99::1/64", "dev", "d0", "nodad")
    index = socket.if_nametoindex("d0")
    add("10.99.0.50", 24, index)
    add("fd00:99::50", 64, index)
    for address in ["10.99.0.50", "fd00:99::50"]:
        holds(f"{address} carries the number it was given", protocol(address) == OURS)
    for address in ["10.99.0.1", "fd00:99::1"]:
        holds(f"{address}, given none, does not", protocol(address) != OURS)

    ip("route", "add", "default", "via", "10.99.0.2")
    holds("a secondary address is not chosen as source", source("10.99.0.9") == "10.99.0.1")
    holds("an IPv6 address whose preferred time is over is not chosen as source",
          source("fd00:99::9") == "fd00:99::1")
    before = ip("route", "show")
    for half in ["0.0.0.0/1", "128.0.0.0/1"]:
        ip("route", "add", half, "via", "10.99.0.2", "src", "10.99.0.50", "proto", str(OURS))
    holds("halves of a route, more specific, choose their own source", source("8.8.8.8") == "10.99.0.50")
    ip("address", "delete", "10.99.0.50/24", "dev", "d0")
    holds("routes go with the address they name as source, the others stay", ip("route", "show") == before)


if os.geteuid() != 0 or not shutil.which("ip"):
    skip("addresses: needs root and ip")
elif LIBC.unshare(CLONE_NEWNET) != 0:
    skip("addresses: no network namespace can be made")
else:
    check()
finish()
