{{- define "tt.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 18 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods; the component keeps operator and database apart. Call with (list $ "operator"). */}}
{{- define "tt.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of objects. Not of pod templates: they name the chart's version, and an upgrade would restart every pod. */}}
{{- define "tt.labels" -}}
{{ include "tt.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{/* An image reference. Call with (list $ .Values.some.image). */}}
{{- define "tt.image" -}}
{{- $image := index . 1 -}}
{{- $tag := $image.tag | default (index . 0).Chart.AppVersion -}}
{{- $version := $image.digest | default $tag -}}
{{- $image.repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $version) }}{{ $version -}}
{{- end -}}

{{/* Where the scheduler places a component's pods. Call with (list $ "operator" .Values). */}}
{{- define "tt.placement" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "tt.selector" (list $ $component) | fromYaml)) }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml (merge (dict) . (ternary dict $selector (hasKey . "labelSelector"))) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The end of a refusal, as a CEL string: what is allowed instead. Call with a list. */}}
{{- define "tt.allowed" -}}
{{ printf "' is refused: allowed are %s" (join ", " . | trunc 2000) | toJson }}
{{- end -}}

{{/* The database role of a namespace's trainers, as `trainingtask_history.roles.trainer_role` names it. */}}
{{- define "tt.trainerRole" -}}
{{- if le (len .) 42 -}}
trainingtask_trainer_{{ . }}
{{- else -}}
trainingtask_trainer_{{ trunc 31 . }}_{{ sha256sum . | trunc 10 }}
{{- end -}}
{{- end -}}

{{/* URL of the evaluation database. Call with (list $ "user") or (list $ "user:password"). */}}
{{- define "tt.historyUrl" -}}
{{- $ := index . 0 -}}
postgresql://{{ index . 1 }}@{{ include "tt.fullname" $ }}-postgres.{{ $.Release.Namespace }}.svc:5432/trainingtask?sslmode=verify-full&sslrootcert=/etc/trainingtask-history/ca.crt
{{- end -}}

{{/* Names of the Secrets with the evaluation database's passwords, and with its certificate. */}}
{{- define "tt.historySecret" -}}
{{- .Values.history.evaluation.existingSecret | default (printf "%s-postgres" (include "tt.fullname" .)) -}}
{{- end -}}
{{- define "tt.historyTlsSecret" -}}
{{- .Values.history.evaluation.tls.existingSecret | default (printf "%s-postgres-tls" (include "tt.fullname" .)) -}}
{{- end -}}

{{/* Where a pod finds who signed the evaluation database's certificate. */}}
{{- define "tt.historyCaVolume" -}}
name: history-ca
secret:
  secretName: {{ include "tt.historyTlsSecret" . | quote }}
  items: [{key: ca.crt, path: ca.crt}]
{{- end -}}

{{/* Variables with the history's URL, as its owner. */}}
{{- define "tt.historyOwnerEnv" -}}
{{- if eq .Values.history.mode "evaluation" -}}
- name: TRAININGTASK_HISTORY_URL
  value: {{ include "tt.historyUrl" (list . "trainingtask") }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "tt.historySecret" . | quote }}, key: owner-password}
{{- else if eq .Values.history.mode "external" -}}
- name: TRAININGTASK_HISTORY_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.history.external.operatorSecret.name | quote }}
      key: {{ .Values.history.external.operatorSecret.key | quote }}
{{- end }}
{{- end -}}

{{/* Variables with the history's URL, as a reader; as its owner where an external history has no reader's Secret. */}}
{{- define "tt.historyReaderEnv" -}}
{{- if eq .Values.history.mode "evaluation" -}}
- name: TRAININGTASK_HISTORY_URL
  value: {{ include "tt.historyUrl" (list . "trainingtask_reader") }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "tt.historySecret" . | quote }}, key: reader-password}
{{- else if .Values.history.external.readerSecret.name -}}
- name: TRAININGTASK_HISTORY_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.history.external.readerSecret.name | quote }}
      key: {{ .Values.history.external.readerSecret.key | quote }}
{{- else -}}
{{- include "tt.historyOwnerEnv" . }}
{{- end }}
{{- end -}}

{{/* The operator's settings file. */}}
{{- define "tt.settings" -}}
namespaces: {{ toJson .Values.trainer.namespaces }}
namespaced: {{ .Values.rbac.namespaced }}
imagePullPolicy: {{ .Values.trainer.imagePullPolicy }}
imagePullSecrets: {{ toJson .Values.trainer.imagePullSecrets }}
hub: {{ toJson .Values.trainer.hub }}
env: {{ toJson .Values.trainer.env }}
envFrom: {{ toJson .Values.trainer.envFrom }}
podLabels: {{ toJson .Values.trainer.podLabels }}
podAnnotations: {{ toJson .Values.trainer.podAnnotations }}
inheritedPrefixes: {{ toJson .Values.trainer.inheritedPrefixes }}
podSecurityContext: {{ .Values.trainer.podSecurityContext | default dict | toJson }}
containerSecurityContext: {{ .Values.trainer.containerSecurityContext | default dict | toJson }}
hostUsers: {{ toJson .Values.trainer.hostUsers }}
extraVolumes: {{ toJson .Values.trainer.extraVolumes }}
extraVolumeMounts: {{ toJson .Values.trainer.extraVolumeMounts }}
proxy: {{ toJson .Values.trainer.proxy }}
caBundle: {{ toJson .Values.trainer.caBundle }}
tracking: {{ toJson .Values.trainer.tracking }}
allowPrivateRedirects: {{ .Values.trainer.allowPrivateRedirects }}
kueue:
  enabled: {{ .Values.kueue.enabled }}
history:
  retentionDays: {{ .Values.history.retentionDays }}
devices:
{{- range $name, $device := .Values.trainer.devices }}
  {{ $name | quote }}:
    {{- $image := $device.image | default (include "tt.image" (list $ $.Values.trainer.image)) }}
    {{- toYaml (merge (dict "image" $image) $device) | nindent 4 }}
{{- end }}
profiles:
{{- range $name, $profile := .Values.trainer.profiles }}
  {{ $name | quote }}:
    {{- $default := index $.Values.trainer.devices $profile.device | required (printf "trainer.profiles.%s: device '%s' is not offered by trainer.devices" $name $profile.device) }}
    {{- $image := $profile.image | default $default.image | default (include "tt.image" (list $ $.Values.trainer.image)) }}
    {{- toYaml (merge (dict "image" $image) $profile (dict "resources" $default.resources)) | nindent 4 }}
{{- else }} {}
{{- end }}
{{- end -}}
