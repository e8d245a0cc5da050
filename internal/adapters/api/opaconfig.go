package api

// OPAConfig is what OPA needs to upload to docket; tokenFile is where its token is, or "". deploy/opa/config.yaml is
// the same text; a test keeps it so.
func OPAConfig(url, tokenFile string) string {
	credentials := ""
	if tokenFile != "" {
		credentials = "\n    credentials:\n      bearer:\n        token_path: " + tokenFile
	}
	return `services:
  docket:
    url: ` + url + credentials + `

decision_logs:
  service: docket
  reporting:
    buffer_type: size
    buffer_size_limit_bytes: 67108864 # 64 MiB; without a bound an outage fills OPA's memory
    upload_size_limit_bytes: 1048576  # 1 MiB compressed
    min_delay_seconds: 1
    max_delay_seconds: 5

status:
  service: docket
`
}
