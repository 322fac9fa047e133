//! `report.html`: one file with the curve, the numbers, the samples and the configuration.

use std::fmt::Write as _;

use crate::objective::Metrics;

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The page of a training: its curve as SVG, the evaluations by step, samples, and the text of its configuration.
pub(crate) fn page(
    title: &str,
    curve: &str,
    facts: &[(&str, String)],
    evaluations: &[(usize, Metrics)],
    samples: &[(usize, String)],
    config: &str,
) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let style = "body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}th{text-align:left}pre{background:#f5f5f5;padding:1em;overflow:auto}svg{max-width:100%;height:auto}";
    let _ = write!(out, "<title>{0}</title><style>{style}</style></head><body><h1>{0}</h1>", escaped(title));
    let _ = write!(out, "<table>");
    for (name, value) in facts {
        let _ = write!(out, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value));
    }
    let _ = write!(out, "</table><h2>Loss</h2>{curve}");
    if let Some((_, first)) = evaluations.first() {
        let _ = write!(out, "<h2>Held-out data</h2><table><tr><th>step</th>");
        first.iter().for_each(|(name, _)| {
            let _ = write!(out, "<th>{}</th>", escaped(name));
        });
        let _ = write!(out, "</tr>");
        for (step, metrics) in evaluations {
            let _ = write!(out, "<tr><td>{step}</td>");
            metrics.iter().for_each(|(_, value)| {
                let _ = write!(out, "<td>{value:.4}</td>");
            });
            let _ = write!(out, "</tr>");
        }
        let _ = write!(out, "</table>");
    }
    if !samples.is_empty() {
        let _ = write!(out, "<h2>Samples</h2>");
        for (step, text) in samples {
            let _ = write!(out, "<p>step {step}</p><pre>{}</pre>", escaped(text));
        }
    }
    let _ = writeln!(out, "<h2>Configuration</h2><pre>{}</pre></body></html>", escaped(config));
    out
}
