package compile

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// accessFields is one line of the access log. The path is written without its query, because Gemini clients put their
// key there, and no header that could carry a credential is named.
var accessFields = map[string]string{
	"time":      "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
	"method":    "%REQ(:METHOD)%",
	"path":      "%PATH(NQ)%",
	"authority": "%REQ(:AUTHORITY)%",
	"protocol":  "%PROTOCOL%",
	"status":    "%RESPONSE_CODE%",
	"flags":     "%RESPONSE_FLAGS%",
	"details":   "%RESPONSE_CODE_DETAILS%",
	"duration":  "%DURATION%",
	"received":  "%BYTES_RECEIVED%",
	"sent":      "%BYTES_SENT%",
	"upstream":  "%UPSTREAM_CLUSTER%",
	"address":   "%UPSTREAM_HOST%",
	"peer":      "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
	"receipt":   "%DYNAMIC_METADATA(" + MetadataNamespace + ":" + ReceiptKey + ")%",
}

func accessLogs(path string) ([]*accesslogv3.AccessLog, error) {
	if path == "" {
		path = "/dev/stdout"
	}
	fields := make(map[string]*structpb.Value, len(accessFields))
	for k, v := range accessFields {
		fields[k] = structpb.NewStringValue(v)
	}
	cfg, err := pack(&filelogv3.FileAccessLog{
		Path: path,
		AccessLogFormat: &filelogv3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
			Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: fields}},
			OmitEmptyValues: true,
		}},
	})
	if err != nil {
		return nil, err
	}
	return []*accesslogv3.AccessLog{{
		Name:       "envoy.access_loggers.file",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: cfg},
	}}, nil
}
