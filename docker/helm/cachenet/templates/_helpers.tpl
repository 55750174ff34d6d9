{{- define "cachenet.labels" -}}
app.kubernetes.io/name: cachenet
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Addresses of all shards for the servers, separated by commas. */ -}}
{{- define "cachenet.brokers" -}}
{{- $name := printf "%s-broker" .Release.Name -}}
{{- range $shard := until (int .Values.shards) -}}
{{- if $shard }},{{ end }}mqtts://server@{{ $name }}-{{ $shard }}.{{ $name }}:8883
{{- end -}}
{{- end }}

{{- /* A pod without a user of the cluster, without root and without privileges. */ -}}
{{- define "cachenet.pod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "cachenet.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
