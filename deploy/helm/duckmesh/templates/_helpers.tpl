{{- define "duckmesh.labels" -}}
app.kubernetes.io/name: duckmesh
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "duckmesh.selector" -}}
app.kubernetes.io/name: duckmesh
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "duckmesh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "duckmesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "duckmesh.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "duckmesh.environment" -}}
envFrom:
  - configMapRef: {name: {{ .Release.Name }}-duckmesh}
  - secretRef: {name: {{ required "existingSecret must name a Secret (values.yaml says what is in it)" .Values.existingSecret }}}
{{- end }}

{{- define "duckmesh.owner" -}}
{{- with .Values.ownerSecret }}
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "duckmesh.mounts" -}}
volumeMounts:
  - {name: home, mountPath: /var/lib/duckmesh}
  - {name: tmp, mountPath: /tmp}
{{- end }}
