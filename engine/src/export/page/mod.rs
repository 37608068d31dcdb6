//! The report of an export as one page of HTML: readable without this program, without a network and without scripts, in
//! light and in dark, and well-formed as XML. In: a [`Report`]. Out: text.

mod picture;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::calibration::Settings;
use crate::export::report::{FileReport, Report, TensorReport};
use crate::numeric::digits::count;
use crate::target;

/// Rows of the table; a report of more tensors says that the JSON has all of them.
const MOST_ROWS: usize = 3000;

/// Ways to store layers that are told apart in the summary; the rest are counted.
const MOST_METHODS: usize = 12;

const STYLE: &str = include_str!("style.css");

/// The page. Some 400 bytes for each tensor, at most 2 MB.
pub(super) fn page(report: &Report) -> String {
    let title = format!("{} for {}", report.source, report.target);
    let sections = [
        summary(report),
        totals(report),
        section("Map of the layers", &picture::map(&report.tensors)),
        section("Error by layer", &picture::errors(&report.tensors)),
        section("Layers", &table(&report.tensors)),
        section("Files of the source", &files(&report.sources)),
        section("Files of the output", &files(&report.files)),
        section("How to read this", NOTES),
    ];
    format!(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
        escape(&title),
        sections.concat()
    )
}

const NOTES: &str = "<p class=\"weak\">Every tensor was read back from the output by other code than wrote it and compared: compressed \
layers bit for bit with what was computed, copied ones byte for byte with the source. The error is ‖W−Ŵ‖/‖W‖ of what the file holds, \
measured. Bits are effective: codes, scales, zero points, masks and indices over the number of weights; nominal bits are those of a \
code. SHA-256 is what sha256sum prints and Hugging Face shows. lapidary-report.json beside this page has the same as data, with the \
plan.</p>\n";

fn section(title: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!("<h2>{title}</h2>\n{content}")
}

/// What it is of, what loads it, what part is compressed and how.
fn summary(report: &Report) -> String {
    let about = target::find(&report.target).ok().map(target::Target::about);
    let (title, loads) =
        about.map_or((report.target.as_str(), ""), |about| (about.title, about.summary));
    let mut methods: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in report.tensors.iter().filter(|tensor| tensor.is_compressed()) {
        *methods.entry(&tensor.method).or_default() += 1;
    }
    let mut methods: Vec<(&str, usize)> = methods.into_iter().collect();
    methods.sort_by_key(|&(method, count)| (std::cmp::Reverse(count), method));
    let said =
        methods.iter().take(MOST_METHODS).map(|(method, count)| format!("{count} × {method}"));
    let mut plan = said.collect::<Vec<_>>().join(", ");
    if methods.len() > MOST_METHODS {
        let more: usize = methods[MOST_METHODS..].iter().map(|(_, count)| count).sum();
        // Writing to a text does not fail.
        write!(plan, ", {more} in other ways").ok();
    }
    if plan.is_empty() {
        plan.push_str("nothing was compressed");
    }
    format!(
        "<h1>{}</h1>\n<p class=\"lead\">{}.</p>\n<p>Written for <strong>{}</strong>: {}</p>\n<p>Plan: {}.</p>\n\
         {}{}<p class=\"weak\">Lapidary {}</p>\n",
        escape(&report.source),
        escape(&report.coverage),
        escape(title),
        escape(loads),
        escape(&plan),
        removed(report),
        calibration(report),
        escape(&report.lapidary)
    )
}

/// Blocks and experts of the source that are not in the output; nothing where all are.
fn removed(report: &Report) -> String {
    if report.removed.is_empty() {
        return String::new();
    }
    format!(
        "<p>Taken out of the source: {}. What is left has new numbers; the names in the source stand behind them.</p>\n",
        escape(&report.removed.told())
    )
}

/// What layers were taken to receive; nothing where no method asked.
fn calibration(report: &Report) -> String {
    let said = |of: &Settings| format!("<p>Calibrated with {}.</p>\n", escape(&of.title()));
    report.calibration.as_ref().map(said).unwrap_or_default()
}

/// Sums over everything.
fn totals(report: &Report) -> String {
    let totals = &report.totals;
    let share = |bytes: u64| match totals.source_bytes {
        0 => String::new(),
        all => format!("{:.1} %", 100.0 * bytes as f64 / all as f64),
    };
    let rows = [
        ("weights", count(totals.parameters), String::new()),
        ("tensor bytes of the source", count(totals.source_bytes), share(totals.source_bytes)),
        ("tensor bytes of the output", count(totals.tensor_bytes), share(totals.tensor_bytes)),
        ("bytes of headers", count(totals.header_bytes), String::new()),
        (
            "bytes of the folder, reports apart",
            count(totals.total_bytes),
            share(totals.total_bytes),
        ),
        ("effective bits per weight", format!("{:.3}", totals.bits_per_weight), String::new()),
        ("layers compressed", count(totals.compressed as u64), String::new()),
        ("layers compressed but stored in full", count(totals.dense as u64), String::new()),
        ("tensors changed beside them", count(totals.changed as u64), String::new()),
        ("tensors copied", count(totals.copied as u64), String::new()),
    ];
    let row = |(name, value, share): &(&str, String, String)| {
        format!(
            "<tr><td>{name}</td><td class=\"n\">{value}</td><td class=\"n\">{share}</td></tr>\n"
        )
    };
    let rows: String = rows.iter().map(row).collect();
    section("Totals", &format!("<table><tbody>\n{rows}</tbody></table>\n"))
}

/// A row for each tensor that is a matrix or compressed.
fn table(tensors: &[TensorReport]) -> String {
    let is_shown = |tensor: &&TensorReport| picture::is_layer(tensor);
    let mut rows = String::new();
    for tensor in tensors.iter().filter(is_shown).take(MOST_ROWS) {
        let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        // Writing to a text does not fail.
        writeln!(
            rows,
            "<tr><td class=\"h\">{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{:.3}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&tensor.told_name()),
            shape.join(" × "),
            escape(&tensor.method),
            tensor.nominal_bits,
            tensor.effective_bits,
            count(tensor.bytes),
            count(tensor.source_bytes),
            percent(tensor.relative_error),
            tensor.output_error.map(percent).unwrap_or_default(),
            escape(&tensor.told())
        )
        .ok();
    }
    let (all, shown) = (tensors.len(), tensors.iter().filter(is_shown).count());
    let mut rest = Vec::new();
    if shown > MOST_ROWS {
        rest.push(format!(
            "The first {} of {} layers.",
            count(MOST_ROWS as u64),
            count(shown as u64)
        ));
    }
    if all > shown {
        rest.push(format!("{} vectors are not shown.", count((all - shown) as u64)));
    }
    let mut note = String::new();
    if !rest.is_empty() {
        rest.push("lapidary-report.json has all tensors.".to_owned());
        note = format!("<p class=\"weak\">{}</p>\n", rest.join(" "));
    }
    let heads = "<tr><th>layer</th><th class=\"n\">shape</th><th>assignment</th><th class=\"n\">nominal bits</th>\
                 <th class=\"n\">effective bits</th><th class=\"n\">bytes</th><th class=\"n\">of</th><th class=\"n\">error</th><th class=\"n\">of outputs</th><th>stored</th></tr>";
    format!(
        "{note}<div class=\"wide\"><table><thead>{heads}</thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn files(files: &[FileReport]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let row = |file: &FileReport| {
        format!(
            "<tr><td class=\"h\">{}</td><td class=\"n\">{}</td><td class=\"h\">{}</td></tr>\n",
            escape(&file.name),
            count(file.bytes),
            escape(&file.sha256)
        )
    };
    let rows: String = files.iter().map(row).collect();
    let heads = "<tr><th>file</th><th class=\"n\">bytes</th><th>SHA-256</th></tr>";
    format!(
        "<div class=\"wide\"><table><thead>{heads}</thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

/// A share with three digits; none for exactly nothing.
fn percent(share: f64) -> String {
    if share == 0.0 { "–".to_owned() } else { format!("{:.3} %", 100.0 * share) }
}

/// Text as it stands between tags and in quotes. What XML cannot hold, as control characters, is replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_numbers_are_grouped() {
        assert_eq!(escape("<b a='\"'>&\u{0}\n"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;\u{fffd} ");
        let counts = [0, 999, 1000, 1_234_567].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([percent(0.0), percent(0.123_456)], ["–", "12.346 %"]);
    }
}
