// Package homeassistant shows the mower to Home Assistant: as one device of its MQTT discovery, with plain JSON on topics of its own.
//
// Everything is below the discovery prefix, outside the namespace of the bus, because programs read it that know nothing of ours:
//
//	<prefix>/device/<device id>/config                       the document, retained
//	<prefix>/lawnberry/<device id>/availability              online or offline, retained; offline is the Will
//	<prefix>/lawnberry/<device id>/<entity>/state            a JSON object, retained but for events
//	<prefix>/lawnberry/<device id>/<entity>/attributes       a JSON object, retained
//	<prefix>/lawnberry/<device id>/<entity>/set              commands; never executed if retained
//
// A value is published when it has changed, and no topic more than once a second. No entity releases the emergency stop.
//
// What a document must look like is taken from Home Assistant's documentation and from the schemas of its MQTT integration, as of
// Home Assistant 2026.9: mqtt/schemas.py (a closed root, unique_id required of components, default_entity_id instead of object_id),
// mqtt/discovery.py (topics, migrate_discovery, removal), mqtt/entity.py (reserved attributes), sensor.py, event.py, device_tracker.py,
// lawn_mower.py, update.py and button.py there. It has been readable since 2024.11, in which devices came.
package homeassistant
