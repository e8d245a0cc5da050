package report

import (
	"bytes"
	"image/color"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Okabe and Ito's colours, which people with any colour vision tell apart, and a dash for each in case they are printed
// in grey.
var (
	colours = []color.Color{
		color.RGBA{0, 114, 178, 255},
		color.RGBA{213, 94, 0, 255},
		color.RGBA{0, 158, 115, 255},
		color.RGBA{204, 121, 167, 255},
		color.RGBA{230, 159, 0, 255},
		color.RGBA{86, 180, 233, 255},
		color.RGBA{80, 80, 80, 255},
	}
	dashes = [][]vg.Length{nil, {6, 3}, {2, 2}, {8, 3, 2, 3}, {12, 3}, {4, 4}, {1, 3}}
	shade  = color.NRGBA{213, 94, 0, 38}
)

// mostPoints is what a line is thinned to. A plot has fewer pixels.
const mostPoints = 300

// svg draws the chart.
func (c Chart) svg() ([]byte, error) {
	p := plot.New()
	face := font.Font{Typeface: "Liberation", Variant: "Sans"}
	for _, style := range []*draw.TextStyle{
		&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle,
	} {
		style.Font.Typeface, style.Font.Variant, style.Font.Size = face.Typeface, face.Variant, 9
	}
	p.Title.Text, p.Title.TextStyle.Font.Size, p.Title.Padding = c.Title, 11, 6
	p.X.Label.Text, p.Y.Label.Text = "seconds", c.Unit
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{225}, color.Gray{240}
	p.Add(grid)
	least, most, last := math.Inf(1), 0.0, 0.0
	for i, line := range c.Lines {
		points := make(plotter.XYs, 0, len(line.Points))
		for _, q := range thin(line.Points) {
			if c.Log && q.Value <= 0 {
				continue
			}
			points = append(points, plotter.XY{X: q.Second, Y: q.Value})
			least, most, last = min(least, q.Value), max(most, q.Value), max(last, q.Second)
		}
		if len(points) == 0 {
			continue
		}
		l, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		l.Color, l.Dashes, l.Width = colours[i%len(colours)], dashes[i%len(dashes)], vg.Points(1.3)
		p.Add(l)
		p.Legend.Add(line.Name, l)
	}
	p.X.Min, p.X.Max = 0, max(last, 1)
	p.Y.Tick.Marker = ticks{plot.DefaultTicks{}}
	p.Y.Min, p.Y.Max = 0, max(most*1.25, 1e-3) // with room for the legend
	if c.Log {
		if math.IsInf(least, 1) {
			least, most = 1, 10
		}
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, ticks{plot.LogTicks{Prec: -1}}
		p.Y.Min, p.Y.Max = math.Pow(10, math.Floor(math.Log10(least))), math.Pow(10, math.Ceil(math.Log10(most*2)))
	}
	for _, m := range c.Marks {
		area, err := plotter.NewPolygon(
			plotter.XYs{{X: m.From, Y: p.Y.Min}, {X: m.To, Y: p.Y.Min}, {X: m.To, Y: p.Y.Max}, {X: m.From, Y: p.Y.Max}},
		)
		if err != nil {
			return nil, err
		}
		area.Color, area.Width = shade, 0
		p.Add(area)
		p.Legend.Add(m.Name, area)
	}
	p.Legend.TextStyle.Font.Size, p.Legend.Padding = 8, 2
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs, p.Legend.YOffs = true, true, 6, -2
	canvas := vgsvg.New(6*vg.Inch, 2.9*vg.Inch)
	p.Draw(draw.New(canvas))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// ticks writes 1500 as 1,500 and 30000000 as 30M.
type ticks struct{ plot.Ticker }

func (t ticks) Ticks(low, high float64) []plot.Tick {
	out := t.Ticker.Ticks(low, high)
	for i := range out {
		if out[i].Label != "" {
			out[i].Label = short(out[i].Value)
		}
	}
	return out
}

func short(v float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= 10*unit.size || math.Abs(v) >= unit.size && math.Mod(v, unit.size) == 0 {
			return strconv.FormatFloat(v/unit.size, 'g', 4, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// thin keeps the highest point of as many neighbours as it takes: what stands out is what one looks for.
func thin(points []Point) []Point {
	size := (len(points) + mostPoints - 1) / mostPoints
	if size <= 1 {
		return points
	}
	var out []Point
	for from := 0; from < len(points); from += size {
		top := points[from]
		for _, q := range points[from:min(from+size, len(points))] {
			if q.Value > top.Value {
				top = q
			}
		}
		out = append(out, top)
	}
	return out
}
