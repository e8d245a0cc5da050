package sshd.authz

default allow := false

allow if input.sysinfo.pam_username == "ops"

errors contains "you do not contribute to this host" if not allow
