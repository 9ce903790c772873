{{/* The name of everything namespaced and of the cluster roles; 53 characters leave room for a suffix. */}}
{{- define "trainingrun.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "trainingrun.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What every object of the release carries besides the labels that it is selected by. */}}
{{- define "trainingrun.releaseLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "trainingrun.labels" -}}
{{ include "trainingrun.selectorLabels" . }}
{{ include "trainingrun.releaseLabels" . }}
{{- end -}}

{{/* Not the operator's labels: its Service, its budget and its Deployment would take the dashboard's pods for their own. */}}
{{- define "trainingrun.dashboardSelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-dashboard
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trainingrun.dashboardLabels" -}}
{{ include "trainingrun.dashboardSelectorLabels" . }}
app.kubernetes.io/component: dashboard
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{ include "trainingrun.releaseLabels" . }}
{{- end -}}

{{- define "trainingrun.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "trainingrun.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Of the pod of `helm test`: not the operator's own, or its Service would send it requests. */}}
{{- define "trainingrun.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Which runs an operator manages: the same for every object that asks on its behalf. */}}
{{- define "trainingrun.scope" -}}
{{- with .Values.watchNamespaces -}}
- name: TRAININGRUN_WATCH_NAMESPACES
  value: {{ join "," . | quote }}
{{ end -}}
{{- with .Values.runSelector -}}
- name: TRAININGRUN_RUN_SELECTOR
  value: {{ . | quote }}
{{ end -}}
- name: TRAININGRUN_RELEASE_NODES
  value: {{ .Values.nodeRelease.enabled | quote }}
- name: TRAININGRUN_LEASE_NAME
  value: {{ include "trainingrun.fullname" . }}
- name: TRAININGRUN_LEASE_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end -}}

{{- define "trainingrun.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
