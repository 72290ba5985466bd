"""A service in Python, on paho-mqtt: it announces itself, beats, answers commands, and publishes how wet the soil is.

    pip install paho-mqtt        # or, on Debian: apt-get install python3-paho-mqtt
    python3 soil.py
    lawnberry call soil read

LAWNBERRY_BROKER_URL names the broker, such as tcp://soil:PASSWORD@mower.local:1883.
"""

import gzip
import json
import math
import os
import signal
import threading
import time
import urllib.parse
import uuid

import paho.mqtt.client as mqtt

ID, TYPE, VERSION = "soil", "soil_sensor", "1.0.0"
NAMESPACE = "lawnberry/"
READ_EVERY, BEAT_EVERY = 5, 30  # seconds; after 90 without a beat the others take a service for offline
START = time.time()


class Refused(Exception):
    """What a command is answered with that cannot be done."""


def envelope(message_type, payload, priority=1, correlation_id=None):
    return json.dumps({
        "metadata": {
            "timestamp": time.time(), "message_id": str(uuid.uuid4()), "sender": ID, "message_type": message_type,
            "priority": priority, "correlation_id": correlation_id, "expires_at": None, "retry_count": 0,
        },
        "payload": payload,
    })


def status(state):
    now = time.time()
    return envelope("status", {
        "status": state, "uptime": now - START, "version": VERSION, "resources": {},
        "details": {
            "service_id": ID, "service_type": TYPE, "version": VERSION, "start_time": START, "last_heartbeat": now,
            "state": state, "uptime": now - START, "dependencies": [], "endpoints": {"soil": "sensors/soil/data"}, "metadata": {},
        },
    }, priority=0)


def measure():
    """Returns percent of water in the soil. This only pretends: read your probe here."""
    return round(40 + 10 * math.sin(time.time() / 60), 1)


class Soil:
    def __init__(self):
        self.stopping = threading.Event()
        url = urllib.parse.urlparse(os.environ.get("LAWNBERRY_BROKER_URL") or "tcp://localhost:1883")
        if hasattr(mqtt, "CallbackAPIVersion"):  # paho 2
            self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=ID)
        else:
            self.client = mqtt.Client(client_id=ID)
        if url.username:
            self.client.username_pw_set(url.username, url.password)
        # The Will: what the broker says for this service when it vanishes.
        self.client.will_set(self.topic("system/services/%s/status" % ID), status("offline"), qos=1, retain=True)
        self.client.on_connect = self.on_connect
        self.client.on_message = self.on_message
        self.client.reconnect_delay_set(1, 30)
        self.client.connect_async(url.hostname, url.port or 1883, keepalive=20)

    def topic(self, name):
        return NAMESPACE + name

    def announce(self, state):
        return self.client.publish(self.topic("system/services/%s/status" % ID), status(state), qos=1, retain=True)

    def on_connect(self, client, userdata, flags, reason, properties=None):
        if reason != 0:
            print("the broker refuses:", reason, flush=True)
            return
        client.subscribe([
            (self.topic("commands/" + ID), 2), (self.topic("commands/" + TYPE), 2), (self.topic("system/health_check"), 1),
        ])
        self.announce("healthy")
        print("soil is healthy", flush=True)

    def on_message(self, client, userdata, message):
        try:
            if message.topic == self.topic("system/health_check"):
                self.announce("healthy")
            elif not message.retain:  # a command is for now: one that was kept is not done
                self.on_command(message.payload)
        except Exception as error:  # anybody may send anything: it must not end the thread that hears all
            print("not a command: %s: %s" % (type(error).__name__, error), flush=True)

    def on_command(self, body):
        if body[:2] == b"\x1f\x8b":  # long messages are compressed
            body = gzip.decompress(body)
        doc = json.loads(body)
        metadata, payload = doc["metadata"], doc["payload"]
        if payload["target"] not in (ID, TYPE):
            return
        if metadata.get("expires_at") and metadata["expires_at"] < time.time():
            return
        began, result, error = time.time(), None, None
        try:
            result = self.run(payload["command"], payload.get("parameters") or {})
        except Refused as refused:
            error = str(refused)
        except Exception as failed:  # whatever happens, who asked hears of it
            error = "%s: %s" % (type(failed).__name__, failed)
        self.client.publish(self.topic("responses/" + metadata["sender"]), envelope("response", {
            "success": error is None, "result": result, "error": error, "execution_time": time.time() - began,
        }, correlation_id=metadata.get("correlation_id")), qos=2)

    def run(self, command, parameters):
        """Runs a command and returns its result. The last three are those that every service has."""
        if command == "read":
            unit = parameters.get("unit", "percent")
            if unit not in ("percent", "fraction"):
                raise Refused("parameters.unit must be percent or fraction, not %s" % json.dumps(unit))
            wet = measure()
            return {"moisture": wet if unit == "percent" else wet / 100}
        if command == "ping":
            return {"pong": True, "timestamp": time.time(), "service_id": ID, "uptime": time.time() - START}
        if command == "status":
            return {"service_id": ID, "state": "healthy", "uptime": time.time() - START, "metrics": {}, "mqtt_stats": {}}
        if command == "shutdown":
            self.stopping.set()
            return {"shutting_down": True}
        raise Refused("unknown command %s, known are: ping, read, shutdown, status" % json.dumps(command))

    def publish_reading(self):
        self.client.publish(self.topic("sensors/soil/data"), envelope("sensor_data", {
            "sensor_type": "soil", "device_id": None, "data": {"moisture": measure()}, "units": {"moisture": "%"},
            "quality": 1.0, "status": "healthy",
        }), qos=1)

    def main(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.stopping.set())
        self.client.loop_start()
        beat = time.monotonic()
        while not self.stopping.wait(READ_EVERY):
            if not self.client.is_connected():
                continue  # a reading is of no use later
            self.publish_reading()
            if time.monotonic() - beat >= BEAT_EVERY:
                beat = time.monotonic()
                self.announce("healthy")
        if self.client.is_connected():
            self.announce("shutting_down")
            self.announce("offline").wait_for_publish(timeout=5)
        self.client.disconnect()
        self.client.loop_stop()


if __name__ == "__main__":
    Soil().main()
