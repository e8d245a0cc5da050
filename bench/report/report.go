// Package report writes what a load test has measured: report.md with its plots beside it, and report.html, which has
// everything in one file. It owns how figures look; what they are, and whether they are good, its caller says.
package report

import (
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// Report is one scenario's outcome.
type Report struct {
	Title string
	// About says in a sentence or two what was done.
	About       string
	At          time.Time
	Environment []Fact
	Verdicts    []Verdict
	Tables      []Table
	Runs        []Run
}

// Fact is a line about the machine and the versions.
type Fact struct{ Name, Value string }

// Verdict compares a figure with what was asked for.
type Verdict struct {
	What, Asked, Measured string
	Met                   bool
}

// Missed are the figures that are not what was asked for.
func (r *Report) Missed() (out []Verdict) {
	for _, v := range r.Verdicts {
		if !v.Met {
			out = append(out, v)
		}
	}
	return out
}

// Table has a row for each thing that was measured.
type Table struct {
	Title   string
	Columns []string
	Rows    [][]string
}

// Run is one service under one condition, over time.
type Run struct {
	Name   string
	Charts []Chart
}

// Chart shows lines over the seconds of a run.
type Chart struct {
	Title string
	Unit  string
	// Log draws the values' logarithm, where a few of them would hide all others.
	Log   bool
	Lines []Line
	// Marks are spans in which something was broken on purpose.
	Marks []Span
}

// Line is one measured thing.
type Line struct {
	Name   string
	Points []Point
}

// Point is a value at a second of the run.
type Point struct{ Second, Value float64 }

// Span is a while of a run.
type Span struct {
	Name     string
	From, To float64
}

//go:embed report.md.tmpl report.html.tmpl
var templates embed.FS

// Write writes report.md, report.html and plots/*.svg into dir, whose older plots it removes.
func (r *Report) Write(dir string) error {
	plots := filepath.Join(dir, "plots")
	if err := errors.Join(os.RemoveAll(plots), os.MkdirAll(plots, 0o755)); err != nil {
		return err
	}
	type figure struct {
		Title, File string
		SVG         htmltemplate.HTML
	}
	type run struct {
		Name    string
		Figures []figure
	}
	view := struct {
		*Report
		Drawn []run
	}{Report: r}
	for i, measured := range r.Runs {
		drawn := run{Name: measured.Name}
		for k, c := range measured.Charts {
			svg, err := c.svg()
			if err != nil {
				return fmt.Errorf("the plot %q of %q: %w", c.Title, measured.Name, err)
			}
			name := fmt.Sprintf("%d-%d-%s.svg", i+1, k+1, slug(c.Title))
			if err := os.WriteFile(filepath.Join(plots, name), svg, 0o644); err != nil {
				return err
			}
			_, inline, found := strings.Cut(string(svg), "<svg") // without the XML declaration, which HTML does not have
			if !found {
				return fmt.Errorf("the plot %q of %q is no SVG", c.Title, measured.Name)
			}
			drawn.Figures = append(
				drawn.Figures,
				figure{c.Title, "plots/" + name, htmltemplate.HTML("<svg" + inline)},
			) //nolint:gosec // our own plot, whose texts the library escapes
		}
		view.Drawn = append(view.Drawn, drawn)
	}
	md, err := template.New("report.md.tmpl").Funcs(template.FuncMap{"cells": cells, "rule": rule}).ParseFS(
		templates,
		"report.md.tmpl",
	)
	if err != nil {
		return err
	}
	html, err := htmltemplate.ParseFS(templates, "report.html.tmpl")
	if err != nil {
		return err
	}
	var text, page strings.Builder
	if err := errors.Join(md.Execute(&text, view), html.Execute(&page, view)); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "report.md"), []byte(text.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "report.html"), []byte(page.String()), 0o644))
}

// cells is a row of a Markdown table.
func cells(row []string) string {
	escaped := make([]string, len(row))
	for i, c := range row {
		escaped[i] = strings.ReplaceAll(c, "|", `\|`)
	}
	return "| " + strings.Join(escaped, " | ") + " |"
}

func rule(row []string) string { return strings.Repeat("|---", len(row)) + "|" }

func slug(title string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(title)), "-")
}
