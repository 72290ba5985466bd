"""A service in Python on paho-mqtt, speaking the base wire format and nothing of MQTT 5.

It announces itself, discovers the service named on the command line, calls its commands, answers commands, and
listens to sensor data and events. What it sees goes to standard output, one JSON object a line.

Usage: peer.py HOST PORT PEER_ID
"""

import gzip
import json
import sys
import time
import uuid

import paho.mqtt.client as mqtt

NAMESPACE = "lawnberry/"
ME = "python_peer"
START = time.time()


def saw(what, **details):
    print(json.dumps({"saw": what, **details}), flush=True)


def envelope(message_type, payload, priority=1, correlation_id=None):
    return json.dumps({
        "metadata": {
            "timestamp": time.time(),
            "message_id": str(uuid.uuid4()),
            "sender": ME,
            "message_type": message_type,
            "priority": priority,
            "correlation_id": correlation_id,
            "expires_at": None,
            "retry_count": 0,
        },
        "payload": payload,
    })


def status(state):
    now = time.time()
    return envelope("status", {
        "status": state,
        "uptime": now - START,
        "version": "1.2.3",
        "details": {
            "service_id": ME, "service_type": "system", "version": "1.2.3",
            "start_time": START, "last_heartbeat": now, "state": state, "uptime": now - START,
            "dependencies": [], "endpoints": {}, "metadata": {"language": "python"},
        },
        "resources": {"cpu_usage": 1.5, "memory_usage": 2.5, "disk_usage": 3.5},
    }, priority=0)


def decode(body):
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    return json.loads(body)


class Peer:
    def __init__(self, host, port, other):
        self.other = other
        self.pending = {}
        self.called = False
        if hasattr(mqtt, "CallbackAPIVersion"):
            self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION1, client_id=ME)
        else:
            self.client = mqtt.Client(client_id=ME)
        self.client.will_set(NAMESPACE + "system/services/%s/status" % ME, status("offline"), qos=1, retain=True)
        self.client.on_connect = self.on_connect
        self.client.on_message = self.on_message
        self.client.connect(host, port, keepalive=60)

    def run(self):
        self.client.loop_forever()

    def publish(self, topic, body, qos=1, retain=False):
        self.client.publish(NAMESPACE + topic, body, qos=qos, retain=retain)

    def on_connect(self, client, userdata, flags, rc):
        client.subscribe([(NAMESPACE + t, q) for t, q in [
            ("commands/" + ME, 2), ("responses/" + ME, 2), ("system/services/+/status", 1),
            ("system/events/+", 1), ("sensors/+/data", 1),
        ]])
        self.publish("system/services/%s/status" % ME, status("healthy"), retain=True)

    def on_message(self, client, userdata, message):
        if not message.payload:
            return
        topic = message.topic[len(NAMESPACE):].split("/")
        doc = decode(message.payload)
        metadata, payload = doc["metadata"], doc["payload"]
        if topic[0] == "commands":
            self.on_command(metadata, payload)
        elif topic[0] == "responses":
            name = self.pending.pop(metadata["correlation_id"], None)
            saw("response", to=name, success=payload["success"], result=payload.get("result"), error=payload.get("error"))
        elif topic[0] == "sensors":
            saw("sensor", sensor=topic[1], payload=payload, sender=metadata["sender"],
                compressed=message.payload[:2] == b"\x1f\x8b")
        elif topic[:2] == ["system", "events"]:
            saw("event", event=topic[2], data=payload["event_data"], sender=metadata["sender"])
        elif topic[:2] == ["system", "services"]:
            saw("service", id=topic[2], state=payload["status"], details=payload.get("details"))
            if topic[2] == self.other and payload["status"] == "healthy" and not self.called:
                self.called = True
                self.call("add", {"a": 2, "b": 3})
                self.call("add", {"a": "two", "b": 3})
                self.call("no_such_command", {})
                self.call("ping", {})
                self.call("status", {})
                self.publish("sensors/rain/data", gzip.compress(envelope("sensor_data", {
                    "sensor_type": "rain", "data": {"raining": True, "note": "x" * 2000},
                    "device_id": "drops", "units": {}, "quality": 0.5, "status": "healthy",
                }).encode()))

    def call(self, command, parameters):
        correlation = str(uuid.uuid4())
        self.pending[correlation] = command
        self.publish("commands/" + self.other, envelope("command", {
            "target": self.other, "command": command, "parameters": parameters, "timeout": 5.0, "require_ack": True,
        }, correlation_id=correlation), qos=2)

    def on_command(self, metadata, payload):
        saw("command", command=payload["command"], parameters=payload["parameters"], sender=metadata["sender"])
        result, error = None, None
        if payload["command"] == "echo":
            result = payload["parameters"]
        elif payload["command"] == "quit":
            result = True
        else:
            error = "I only know echo and quit"
        self.publish("responses/" + metadata["sender"], envelope("response", {
            "success": error is None, "result": result, "error": error, "execution_time": 0.001,
        }, correlation_id=metadata["correlation_id"]), qos=2)
        if payload["command"] == "quit":
            self.publish("system/events/python_quits", envelope("event", {
                "event_type": "python_quits", "event_data": {"after": time.time() - START}, "source": ME, "category": "system",
            }))


if __name__ == "__main__":
    Peer(sys.argv[1], int(sys.argv[2]), sys.argv[3]).run()
