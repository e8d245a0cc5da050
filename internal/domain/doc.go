// Package domain has what docket knows about decisions without any I/O: how an upload splits into events whose bytes
// stay untouched, what is projected from an event, what a log record carries, how failures are classed, and how a
// query reads. It leaves durability, transport and time to its callers; every function here is pure and safe for
// concurrent use unless it says otherwise.
package domain
