module github.com/docket-project/docket/tools/govulncheck

go 1.26
