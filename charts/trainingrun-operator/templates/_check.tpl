{{/*
What a schema can only say by a regular expression, and what several values have to say together, in sentences: all of them at once.
If you add a value that can be written wrongly, add its sentence here.
*/}}
{{- define "trainingrun.check" -}}
{{- $said := list -}}
{{- $v := .Values -}}

{{- if not (regexMatch "^([a-z]([-a-z0-9]*[a-z0-9])?)?$" $v.fullnameOverride) -}}
{{- $said = append $said (printf "fullnameOverride is %q: expected small letters, digits and hyphens, beginning with a letter" $v.fullnameOverride) -}}
{{- end -}}

{{- if not (regexMatch "^[^\\s@:]+(:[0-9]+/[^\\s@:]+)?$" $v.image.repository) -}}
{{- $said = append $said (printf "image.repository is %q: expected registry and name alone, for one registry.example.com/team/trainingrun-operator; tag and digest have values of their own" $v.image.repository) -}}
{{- end -}}
{{- if not (regexMatch "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$" $v.image.tag) -}}
{{- $said = append $said (printf "image.tag is %q: expected letters, digits, dots, hyphens and underscores; a digest goes into image.digest" $v.image.tag) -}}
{{- end -}}
{{- if not (regexMatch "^(sha256:[a-f0-9]{64})?$" $v.image.digest) -}}
{{- $said = append $said (printf "image.digest is %q: expected sha256: and 64 digits of 0-9 and a-f" $v.image.digest) -}}
{{- end -}}

{{- range $v.watchNamespaces -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" .) -}}
{{- $said = append $said (printf "watchNamespaces has %q: expected the name of a namespace; there are no patterns, since a Role is made in each" .) -}}
{{- end -}}
{{- end -}}

{{- range $v.networkPolicy.runs.namespaces -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" .) -}}
{{- $said = append $said (printf "networkPolicy.runs.namespaces has %q: expected the name of a namespace; there are no patterns, since a policy is made in each" .) -}}
{{- end -}}
{{- end -}}

{{- $key := "([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?" -}}
{{- $value := "([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?" -}}
{{- $term := printf "\\s*(!?\\s*%s|%s\\s*(=|==|!=)\\s*%s|%s\\s+(in|notin)\\s*\\(\\s*%s(\\s*,\\s*%s)*\\s*\\))\\s*" $key $key $value $key $value $value -}}
{{- if not (regexMatch (printf "^(%s(,%s)*)?$" $term $term) $v.runSelector) -}}
{{- $said = append $said (printf "runSelector is %q: expected a label selector as kubectl takes it, for one team=vision or team in (vision, nlp)" $v.runSelector) -}}
{{- end -}}

{{- if not (or $v.serviceAccount.create $v.serviceAccount.name) -}}
{{- $said = append $said "serviceAccount.name is needed where serviceAccount.create is false" -}}
{{- end -}}

{{- range $i, $one := $v.allowedDestinations -}}
{{- if not (regexMatch "^(https?://[^\\s/]+(/\\S*)?)?$" ($one.endpoint | default "")) -}}
{{- $said = append $said (printf "allowedDestinations[%d].endpoint is %q: expected https://host, with a port and a path where it has them" $i $one.endpoint) -}}
{{- end -}}
{{- if not (regexMatch "^([0-9]{12})?$" ($one.expectedBucketOwner | default "")) -}}
{{- $said = append $said (printf "allowedDestinations[%d].expectedBucketOwner is %q: expected the 12 digits of an AWS account, in quotes" $i $one.expectedBucketOwner) -}}
{{- end -}}
{{- if and $one.identity (contains "*" ($one.endpoint | default "")) -}}
{{- $said = append $said (printf "allowedDestinations[%d].identity is %q and endpoint is %q: the operator signs with its own identity for named servers only, so write the endpoint without *" $i $one.identity $one.endpoint) -}}
{{- end -}}
{{- end -}}

{{- if not (regexMatch "^(http://[^\\s/]+(/\\S*)?)?$" ($v.gpuExporter.url | default "")) -}}
{{- $said = append $said (printf "gpuExporter.url is %q: expected the address of a page, http://host:port/path" $v.gpuExporter.url) -}}
{{- end -}}

{{- if not (regexMatch "^(https?://[^\\s/]+(/\\S*)?)?$" ($v.notifications.webhook.url | default "")) -}}
{{- $said = append $said (printf "notifications.webhook.url is %q: expected https://host, with a port and a path where it has them" $v.notifications.webhook.url) -}}
{{- end -}}
{{- if and $v.notifications.webhook.url (not $v.notifications.webhook.secretName) -}}
{{- $said = append $said "notifications.webhook.secretName is needed where notifications.webhook.url is set: events are signed" -}}
{{- end -}}

{{- range $where, $resources := dict "resources" $v.resources "agent.resources" $v.agent.resources -}}
{{- range $side, $quantities := $resources -}}
{{- range $what, $amount := $quantities -}}
{{- if not (regexMatch "^[0-9]+(\\.[0-9]+)?([numkMGTPE]i?|[eE][-+]?[0-9]+)?$" (toString $amount)) -}}
{{- $said = append $said (printf "%s.%s.%s is %q: expected a quantity as Kubernetes writes it, for one 250m or 512Mi" $where $side $what (toString $amount)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $name := list "interval" "scrapeTimeout" -}}
{{- if not (regexMatch "^([0-9]+(ms|s|m|h))+$" (get $v.serviceMonitor $name)) -}}
{{- $said = append $said (printf "serviceMonitor.%s is %q: expected a time as Prometheus writes it, for one 30s" $name (get $v.serviceMonitor $name)) -}}
{{- end -}}
{{- end -}}

{{- if not (regexMatch "^https?://[^$ ]+\\{alert\\}[^$ ]*$" $v.alerts.runbookURL) -}}
{{- $said = append $said (printf "alerts.runbookURL is %q: expected https://… with {alert} in the place of the alert's name, without spaces and $" $v.alerts.runbookURL) -}}
{{- end -}}
{{- if not (regexMatch "^[a-zA-Z0-9_-]{1,40}$" $v.grafana.datasourceUid) -}}
{{- $said = append $said (printf "grafana.datasourceUid is %q: expected the uid of a datasource, letters, digits, - and _, as its page in Grafana has it in the address" $v.grafana.datasourceUid) -}}
{{- end -}}

{{- if $said -}}
{{- fail (printf "values that cannot be meant:\n- %s\n" (join "\n- " $said)) -}}
{{- end -}}
{{- end -}}
