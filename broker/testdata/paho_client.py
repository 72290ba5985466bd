"""Drives a broker with paho-mqtt 1.6: python3 paho_client.py HOST TCP_PORT WEBSOCKET_PORT. Exits 1 with a line per failure."""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes

HOST, TCP, WEB = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
TIMEOUT = 20
COUNT = 200


class Client:
    """A client with its callbacks turned into queues."""

    def __init__(self, transport, version, client_id, clean=True, will=None):
        args = {"transport": transport, "protocol": version, "client_id": client_id}
        if version != mqtt.MQTTv5:
            args["clean_session"] = clean
        self.c = mqtt.Client(**args)
        self.c.max_inflight_messages_set(50)
        self.connected, self.messages, self.subscribed = queue.Queue(), queue.Queue(), queue.Queue()
        self.c.on_connect = lambda c, u, flags, rc, p=None: self.connected.put((flags["session present"], int(getattr(rc, "value", rc))))
        self.c.on_message = lambda c, u, m: self.messages.put(m)
        self.c.on_subscribe = lambda c, u, mid, granted, p=None: self.subscribed.put(granted)
        if will:
            self.c.will_set(will, "gone", qos=1)
        how = {}
        if version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 100
            properties.TopicAliasMaximum = 10
            how = {"clean_start": clean, "properties": properties}
        self.c.connect(HOST, WEB if transport == "websockets" else TCP, keepalive=30, **how)
        self.c.loop_start()
        self.present, code = self.connected.get(timeout=TIMEOUT)
        assert code == 0, code

    def subscribe(self, topic, qos):
        self.c.subscribe(topic, qos)
        self.subscribed.get(timeout=TIMEOUT)

    def get(self):
        return self.messages.get(timeout=TIMEOUT)

    def stop(self, politely=True):
        if politely:
            self.c.disconnect()
        else:
            self.c._sock_close()
        self.c.loop_stop()


def check(transport, version):
    name = f"{transport}{version}"
    pub = Client(transport, version, f"pub-{name}")
    for qos in range(3):
        sub = Client(transport, version, f"sub-{name}-{qos}")
        topic = f"{name}/{qos}"
        sub.subscribe(f"{topic}/#", qos)
        infos = [pub.c.publish(topic, str(i) + "x" * 50, qos=qos) for i in range(COUNT)]
        for i in range(COUNT):
            m = sub.get()
            assert m.payload == (str(i) + "x" * 50).encode() and m.qos == qos, (qos, i, m.payload, m.qos)
        for info in infos:
            info.wait_for_publish(TIMEOUT)
        sub.stop()
        assert sub.messages.empty(), "a message came twice"

    pub.c.publish(f"{name}/kept", "state", qos=1, retain=True).wait_for_publish(TIMEOUT)
    sub = Client(transport, version, f"session-{name}", clean=False)
    sub.subscribe(f"{name}/+", 2)
    m = sub.get()
    assert m.retain and m.payload == b"state", "retained"
    sub.stop()
    for i in range(COUNT):
        pub.c.publish(f"{name}/later", str(i), qos=2)
    pub.c.publish(f"{name}/kept", None, qos=2, retain=True).wait_for_publish(TIMEOUT)
    sub = Client(transport, version, f"session-{name}", clean=False)
    assert sub.present, "session present"
    for i in range(COUNT):
        m = sub.get()
        if i == 0 and m.dup and m.payload == b"state":  # whose acknowledgement paho sent after its DISCONNECT, or not at all
            m = sub.get()
        assert m.payload == str(i).encode() and m.qos == 2, (i, m.payload, m.qos)
    assert sub.get().payload == b""

    mortal = Client(transport, version, f"mortal-{name}", will=f"{name}/will")
    mortal.stop(politely=False)
    assert sub.get().payload == b"gone", "Will"
    sub.stop()
    pub.stop()


failed = False
for transport in ("tcp", "websockets"):
    for version in (mqtt.MQTTv311, mqtt.MQTTv5):
        try:
            check(transport, version)
        except Exception as e:
            failed = True
            print(f"{transport}, version {version}: {type(e).__name__}: {e}")
sys.exit(failed)
