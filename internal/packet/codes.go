package packet

import "strconv"

// Code is a reason code of MQTT 5. For 3.1.1, CONNACK return codes are mapped (see Connack).
type Code byte

const (
	Success                     Code = 0x00 // also NormalDisconnection, GrantedQoS0
	GrantedQoS1                 Code = 0x01
	GrantedQoS2                 Code = 0x02
	DisconnectWithWill          Code = 0x04
	NoMatchingSubscribers       Code = 0x10
	NoSubscriptionExisted       Code = 0x11
	ContinueAuthentication      Code = 0x18
	ReAuthenticate              Code = 0x19
	UnspecifiedError            Code = 0x80
	MalformedPacket             Code = 0x81
	ProtocolError               Code = 0x82
	ImplementationSpecific      Code = 0x83
	UnsupportedVersion          Code = 0x84
	ClientIDNotValid            Code = 0x85
	BadUserNameOrPassword       Code = 0x86
	NotAuthorized               Code = 0x87
	ServerUnavailable           Code = 0x88
	ServerBusy                  Code = 0x89
	Banned                      Code = 0x8A
	ServerShuttingDown          Code = 0x8B
	BadAuthenticationMethod     Code = 0x8C
	KeepAliveTimeout            Code = 0x8D
	SessionTakenOver            Code = 0x8E
	TopicFilterInvalid          Code = 0x8F
	TopicNameInvalid            Code = 0x90
	PacketIDInUse               Code = 0x91
	PacketIDNotFound            Code = 0x92
	ReceiveMaximumExceeded      Code = 0x93
	TopicAliasInvalid           Code = 0x94
	PacketTooLarge              Code = 0x95
	MessageRateTooHigh          Code = 0x96
	QuotaExceeded               Code = 0x97
	AdministrativeAction        Code = 0x98
	PayloadFormatInvalid        Code = 0x99
	RetainNotSupported          Code = 0x9A
	QoSNotSupported             Code = 0x9B
	UseAnotherServer            Code = 0x9C
	ServerMoved                 Code = 0x9D
	SharedSubsNotSupported      Code = 0x9E
	ConnectionRateExceeded      Code = 0x9F
	MaximumConnectTime          Code = 0xA0
	SubscriptionIDsNotSupported Code = 0xA1
	WildcardSubsNotSupported    Code = 0xA2
)

// String returns the specification's name, such as "Packet too large".
func (c Code) String() string {
	switch c {
	case Success:
		return "Success"
	case GrantedQoS1:
		return "Granted QoS 1"
	case GrantedQoS2:
		return "Granted QoS 2"
	case DisconnectWithWill:
		return "Disconnect with Will Message"
	case NoMatchingSubscribers:
		return "No matching subscribers"
	case NoSubscriptionExisted:
		return "No subscription existed"
	case ContinueAuthentication:
		return "Continue authentication"
	case ReAuthenticate:
		return "Re-authenticate"
	case UnspecifiedError:
		return "Unspecified error"
	case MalformedPacket:
		return "Malformed Packet"
	case ProtocolError:
		return "Protocol Error"
	case ImplementationSpecific:
		return "Implementation specific error"
	case UnsupportedVersion:
		return "Unsupported Protocol Version"
	case ClientIDNotValid:
		return "Client Identifier not valid"
	case BadUserNameOrPassword:
		return "Bad User Name or Password"
	case NotAuthorized:
		return "Not authorized"
	case ServerUnavailable:
		return "Server unavailable"
	case ServerBusy:
		return "Server busy"
	case Banned:
		return "Banned"
	case ServerShuttingDown:
		return "Server shutting down"
	case BadAuthenticationMethod:
		return "Bad authentication method"
	case KeepAliveTimeout:
		return "Keep Alive timeout"
	case SessionTakenOver:
		return "Session taken over"
	case TopicFilterInvalid:
		return "Topic Filter invalid"
	case TopicNameInvalid:
		return "Topic Name invalid"
	case PacketIDInUse:
		return "Packet Identifier in use"
	case PacketIDNotFound:
		return "Packet Identifier not found"
	case ReceiveMaximumExceeded:
		return "Receive Maximum exceeded"
	case TopicAliasInvalid:
		return "Topic Alias invalid"
	case PacketTooLarge:
		return "Packet too large"
	case MessageRateTooHigh:
		return "Message rate too high"
	case QuotaExceeded:
		return "Quota exceeded"
	case AdministrativeAction:
		return "Administrative action"
	case PayloadFormatInvalid:
		return "Payload format invalid"
	case RetainNotSupported:
		return "Retain not supported"
	case QoSNotSupported:
		return "QoS not supported"
	case UseAnotherServer:
		return "Use another server"
	case ServerMoved:
		return "Server moved"
	case SharedSubsNotSupported:
		return "Shared Subscriptions not supported"
	case ConnectionRateExceeded:
		return "Connection rate exceeded"
	case MaximumConnectTime:
		return "Maximum connect time"
	case SubscriptionIDsNotSupported:
		return "Subscription Identifiers not supported"
	case WildcardSubsNotSupported:
		return "Wildcard Subscriptions not supported"
	}
	return "reason code " + hexByte(byte(c))
}

// in reports whether a packet of type t may carry c in MQTT 5 (the table of section 2.4).
func (c Code) in(t Type) bool {
	switch t {
	case CONNACK:
		switch c {
		case Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecific, UnsupportedVersion,
			ClientIDNotValid, BadUserNameOrPassword, NotAuthorized, ServerUnavailable, ServerBusy, Banned,
			BadAuthenticationMethod, TopicNameInvalid, PacketTooLarge, QuotaExceeded, PayloadFormatInvalid,
			RetainNotSupported, QoSNotSupported, UseAnotherServer, ServerMoved, ConnectionRateExceeded:
			return true
		}
	case PUBACK, PUBREC:
		switch c {
		case Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecific, NotAuthorized, TopicNameInvalid,
			PacketIDInUse, QuotaExceeded, PayloadFormatInvalid:
			return true
		}
	case PUBREL, PUBCOMP:
		return c == Success || c == PacketIDNotFound
	case SUBACK:
		switch c {
		case Success, GrantedQoS1, GrantedQoS2, UnspecifiedError, ImplementationSpecific, NotAuthorized,
			TopicFilterInvalid, PacketIDInUse, QuotaExceeded, SharedSubsNotSupported, SubscriptionIDsNotSupported,
			WildcardSubsNotSupported:
			return true
		}
	case UNSUBACK:
		switch c {
		case Success, NoSubscriptionExisted, UnspecifiedError, ImplementationSpecific, NotAuthorized,
			TopicFilterInvalid, PacketIDInUse:
			return true
		}
	case DISCONNECT:
		switch c {
		case Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecific,
			NotAuthorized, ServerBusy, ServerShuttingDown, BadAuthenticationMethod, KeepAliveTimeout, SessionTakenOver,
			TopicFilterInvalid, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge,
			MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid, RetainNotSupported,
			QoSNotSupported, UseAnotherServer, ServerMoved, SharedSubsNotSupported, ConnectionRateExceeded,
			MaximumConnectTime, SubscriptionIDsNotSupported, WildcardSubsNotSupported:
			return true
		}
	case AUTH:
		return c == Success || c == ContinueAuthentication || c == ReAuthenticate
	}
	return false
}

// returnCode maps c to a CONNACK return code of 3.1.1.
func (c Code) returnCode() byte {
	switch c {
	case Success:
		return 0
	case UnsupportedVersion:
		return 1
	case ClientIDNotValid:
		return 2
	case ServerUnavailable, ServerBusy, ServerShuttingDown, UnspecifiedError, ImplementationSpecific, QuotaExceeded,
		UseAnotherServer, ServerMoved, ConnectionRateExceeded:
		return 3
	case BadUserNameOrPassword, BadAuthenticationMethod:
		return 4
	}
	return 5
}

// fromReturnCode is the inverse of returnCode; ok is false for the reserved values over 5.
func fromReturnCode(b byte) (c Code, ok bool) {
	switch b {
	case 0:
		return Success, true
	case 1:
		return UnsupportedVersion, true
	case 2:
		return ClientIDNotValid, true
	case 3:
		return ServerUnavailable, true
	case 4:
		return BadUserNameOrPassword, true
	case 5:
		return NotAuthorized, true
	}
	return 0, false
}

// Error is a protocol violation found while decoding.
type Error struct {
	Code Code   // what to answer with in CONNACK or DISCONNECT; in 3.1.1 the connection is just closed
	Text string // what and where: "SUBSCRIBE: reserved flags must be 0010 [MQTT-3.8.1-1]"
}

// Error returns the code's name and the text.
func (e *Error) Error() string {
	if e.Text == "" {
		return e.Code.String()
	}
	return e.Code.String() + ": " + e.Text
}

func decimal(n int) string { return strconv.Itoa(n) }

func hexByte(b byte) string {
	const digits = "0123456789ABCDEF"
	return string([]byte{'0', 'x', digits[b>>4], digits[b&15]})
}
