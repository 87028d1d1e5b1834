//! Latency and CPU against calls, as one SVG picture.

use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

/// One line of a chart.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Calls, value.
    pub points: Vec<(f64, f64)>,
}

/// One chart.
pub struct Chart {
    /// Above it.
    pub title: String,
    /// The vertical axis and its unit.
    pub unit: String,
    /// Its lines.
    pub series: Vec<Series>,
}

const WIDTH: u32 = 960;
const HEIGHT: u32 = 420;
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
];

/// Draws the charts below each other. Errs with one sentence when the file can't be written.
pub fn draw(path: &Path, charts: &[Chart]) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let root =
        SVGBackend::new(path, (WIDTH, HEIGHT * charts.len().max(1) as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    for (area, chart) in root
        .split_evenly((charts.len().max(1), 1))
        .iter()
        .zip(charts)
    {
        one(area, chart).map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

fn one(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    chart: &Chart,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || chart.series.iter().flat_map(|series| &series.points);
    let right = all().map(|point| point.0).fold(1.0, f64::max) * 1.05;
    let top = all().map(|point| point.1).fold(1e-6, f64::max) * 1.15;
    let mut drawn = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    drawn
        .configure_mesh()
        .x_desc("calls")
        .y_desc(&chart.unit)
        .x_label_formatter(&|calls| format!("{calls:.0}"))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    for (series, colour) in chart.series.iter().zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        drawn
            .draw_series(LineSeries::new(
                series.points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let points = series.points.iter().copied();
        drawn.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    drawn
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_titles_and_lines_and_a_bad_path_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.svg");
        let charts = [Chart {
            title: "Delay".into(),
            unit: "ms".into(),
            series: vec![Series {
                name: "p99".into(),
                points: vec![(100.0, 0.4), (200.0, 0.9)],
            }],
        }];
        draw(&path, &charts).expect("drawn");
        let text = std::fs::read_to_string(&path).expect("written");
        for part in ["<svg", "Delay", "p99", "polyline"] {
            assert!(text.contains(part), "{part} is missing");
        }
        assert!(draw(&folder.path().join("no/such/folder.svg"), &charts).is_err());
    }
}
