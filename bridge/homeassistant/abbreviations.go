package homeassistant

// expandDocument writes the abbreviations of a document out, in place.
func expandDocument(root map[string]any) {
	expand(root, abbreviations())
	for key, short := range map[string]map[string]string{"device": deviceAbbreviations(), "origin": originAbbreviations()} {
		if m, ok := root[key].(map[string]any); ok {
			expand(m, short)
		}
	}
	expandAvailability(root)
	components, _ := root["components"].(map[string]any)
	for _, value := range components {
		if c, ok := value.(map[string]any); ok {
			expand(c, abbreviations())
			expandAvailability(c)
		}
	}
}

func expandAvailability(m map[string]any) {
	if one, ok := m["availability"].(map[string]any); ok { // a list of one
		m["availability"] = []any{one}
	}
	list, _ := m["availability"].([]any)
	for _, item := range list {
		if a, ok := item.(map[string]any); ok {
			expand(a, abbreviations())
		}
	}
}

func expand(m map[string]any, full map[string]string) {
	for short, name := range full {
		if v, set := m[short]; set {
			delete(m, short)
			m[name] = v
		}
	}
}

// abbreviations are Home Assistant's, of the keys that the schema knows.
func abbreviations() map[string]string {
	return map[string]string{
		"avty": "availability", "avty_mode": "availability_mode", "avty_t": "availability_topic", "avty_tpl": "availability_template",
		"cmd_t": "command_topic", "cmd_tpl": "command_template", "cmps": "components", "def_ent_id": "default_entity_id", "dev": "device",
		"dev_cla": "device_class", "e": "encoding", "en": "enabled_by_default", "ent_cat": "entity_category", "ent_pic": "entity_picture",
		"evt_typ": "event_types", "exp_aft": "expire_after", "frc_upd": "force_update", "ic": "icon", "json_attr_t": "json_attributes_topic",
		"json_attr_tpl": "json_attributes_template", "l_ver_t": "latest_version_topic", "l_ver_tpl": "latest_version_template",
		"lrst_val_tpl": "last_reset_value_template", "o": "origin", "obj_id": "object_id", "off_dly": "off_delay", "opt": "optimistic",
		"ops": "options", "p": "platform", "pl_avail": "payload_available", "pl_not_avail": "payload_not_available", "pl_off": "payload_off",
		"pl_on": "payload_on", "pl_prs": "payload_press", "ret": "retain", "src_type": "source_type", "stat_cla": "state_class",
		"stat_t": "state_topic", "sug_dsp_prc": "suggested_display_precision", "t": "topic", "uniq_id": "unique_id",
		"migr_discvry": "migrate_discovery", "unit_of_meas": "unit_of_measurement", "val_tpl": "value_template",
	}
}

func deviceAbbreviations() map[string]string {
	return map[string]string{
		"cns": "connections", "cu": "configuration_url", "hw": "hw_version", "ids": "identifiers", "mdl": "model", "mdl_id": "model_id",
		"mf": "manufacturer", "sa": "suggested_area", "sn": "serial_number", "sw": "sw_version",
	}
}

func originAbbreviations() map[string]string {
	return map[string]string{"sw": "sw_version", "url": "support_url"}
}
