#!/usr/bin/env python3
"""Lets other programs take the reference's place in s2, s3 and s4: `--reference benches/rivals/rival.py`.

Called as `rival.py run -c config.json …` it writes the same configuration in that program's words beside it and becomes
the program. Everything else (`rule-set compile`, `version`) goes to the real reference, which makes the fixtures.

Environment: RIVAL, shadowsocks-rust or shoes; RIVALS, the directory of their programs (`cargo install --root DIR`: DIR/bin);
REFERENCE, the path of sing-box 1.12.12.
"""

import json
import os
import sys


def server(config):
    """What stands behind: (inbound, None); in front: (None, outbound)."""
    outbound = config["outbounds"][0]
    if outbound["type"] == "direct":
        return config["inbounds"][0], None
    return None, outbound


def shadowsocks_rust(config, path):
    """sslocal or ssserver (shadowsocks-rust 1.25.0)."""
    inbound, outbound = server(config)
    end = inbound or outbound
    words = {"password": end["password"], "method": end["method"], "mode": "tcp_and_udp"}
    if inbound:
        words |= {"server": inbound["listen"], "server_port": inbound["listen_port"]}
    else:
        front = config["inbounds"][0]
        words |= {"server": outbound["server"], "server_port": outbound["server_port"]}
        words |= {"local_address": front["listen"], "local_port": front["listen_port"], "protocol": "socks"}
    with open(path, "w") as file:
        json.dump(words, file)
    return ["ssserver" if inbound else "sslocal", "-c", path]


def shoes(config, path):
    """shoes 0.3.2; its YAML is a superset of JSON. It cannot be given an authority, so it trusts any certificate."""
    inbound, outbound = server(config)
    end = inbound or outbound
    kind = end["type"]
    if kind == "shadowsocks":
        protocol = {"type": kind, "cipher": end["method"], "password": end["password"]}
        protocol |= {"udp_enabled": True}
    elif kind == "trojan":
        password = end["users"][0]["password"] if inbound else end["password"]
        protocol = {"type": kind, "password": password}
    else:
        uuid = end["users"][0]["uuid"] if inbound else end["uuid"]
        protocol = {"type": kind, "user_id": uuid}
    if "transport" in end:
        carried = {"matching_path": end["transport"]["path"], "protocol": protocol, "ping_type": "disabled"}
        protocol = {"type": "websocket"} | ({"targets": [carried]} if inbound else carried)
    if "tls" in end:
        tls = end["tls"]
        if inbound:
            target = {"cert": tls["certificate_path"], "key": tls["key_path"], "protocol": protocol}
            protocol = {"type": "tls", "tls_targets": {tls["server_name"]: target}}
        else:
            protocol = {"type": "tls", "sni_hostname": tls["server_name"], "verify": False, "protocol": protocol}
    if inbound:
        entry = {
            "address": f"{inbound['listen']}:{inbound['listen_port']}",
            "protocol": protocol,
            "rules": "allow-all-direct",
        }
    else:
        front = config["inbounds"][0]
        chain = {"address": f"{outbound['server']}:{outbound['server_port']}", "protocol": protocol}
        entry = {
            "address": f"{front['listen']}:{front['listen_port']}",
            "protocol": {"type": "socks", "udp_enabled": True},
            "rules": [{"masks": "0.0.0.0/0", "action": "allow", "client_chain": chain}],
        }
    with open(path, "w") as file:
        json.dump([entry], file)
    return ["shoes", "--no-reload", path]


def main():
    if sys.argv[1:2] != ["run"]:
        os.execv(os.environ["REFERENCE"], ["reference"] + sys.argv[1:])
    with open("config.json") as file:
        config = json.load(file)
    words = {"shadowsocks-rust": shadowsocks_rust, "shoes": shoes}[os.environ["RIVAL"]](config, "rival.json")
    os.execv(os.path.join(os.environ["RIVALS"], words[0]), words)


main()
