//! The comparison as one self-contained HTML page: inline style, images as data, curves as SVG.

use std::fmt::Write;

use kiln_core::Result;

use super::{Cell, Content, Figure, Matrix, Report, Row, colour};

const STYLE: &str = include_str!("style.css");

/// The whole page.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn page(report: &Report) -> Result<String> {
    let title = escape(&report.title);
    let about = report.about.iter().map(|a| format!("<li>{}</li>", escape(a))).collect::<String>();
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n\
         <header>\n<h1>{title}</h1>\n<ul class=\"about\">{about}</ul>\n</header>\n",
        run_colours(report.runs.len())
    );
    for section in &report.sections {
        out += &format!("<section>\n<h2>{}</h2>\n", escape(&section.title));
        if !section.note.is_empty() {
            out += &format!("<p class=\"note\">{}</p>\n", escape(&section.note));
        }
        for content in &section.content {
            out += &match content {
                Content::Table(rows) => table(report, rows),
                Content::Figures(figures) => {
                    let all = figures.iter().map(|f| figure(report, f)).collect::<Result<String>>()?;
                    format!("<div class=\"figures\">\n{all}</div>\n")
                }
                Content::Confusions(matrices) => {
                    let all: String = matrices.iter().map(|m| matrix(report, m)).collect();
                    format!("<div class=\"figures\">\n{all}</div>\n")
                }
                Content::Plots(plots) => {
                    let mut all = String::new();
                    for plot in plots {
                        // Inside a page an SVG needs no namespace.
                        let svg = plot.svg()?.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
                        let label = escape(&format!("{} against {}", plot.title, plot.along));
                        all += &format!("<div class=\"plot\" role=\"img\" aria-label=\"{label}\">\n{svg}</div>\n");
                    }
                    format!("<div class=\"plots\">\n{all}</div>\n")
                }
                Content::Commands(lines) => format!("<pre>{}</pre>\n", escape(&lines.join("\n"))),
            };
        }
        out += "</section>\n";
    }
    Ok(out + "</main>\n</body>\n</html>\n")
}

fn run_colours(runs: usize) -> String {
    (0..runs).fold(String::new(), |mut out, run| {
        let [r, g, b] = colour(run);
        // Writing to a string does not fail.
        let _ = writeln!(out, ".run{run}::before{{background:#{r:02X}{g:02X}{b:02X}}}");
        out
    })
}

fn name(report: &Report, run: usize) -> String {
    format!("<span class=\"run run{run}\">{}</span>", escape(&report.runs[run].name))
}

fn table(report: &Report, rows: &[Row]) -> String {
    let mut out = String::from("<div class=\"wide\">\n<table>\n<thead>\n<tr><th></th>");
    for (run, column) in report.runs.iter().enumerate() {
        out += &format!(
            "<th scope=\"col\">{}<span class=\"small\">{}</span></th>",
            name(report, run),
            escape(&column.about)
        );
    }
    out += "</tr>\n</thead>\n<tbody>\n";
    for row in rows {
        out += &format!("<tr><th scope=\"row\">{}", escape(&row.label));
        if !row.note.is_empty() {
            out += &format!("<span class=\"small\">{}</span>", escape(&row.note));
        }
        out += "</th>";
        out.extend(row.cells.iter().map(cell));
        out += "</tr>\n";
    }
    out + "</tbody>\n</table>\n</div>\n"
}

fn cell(cell: &Cell) -> String {
    match (cell.value.as_str(), cell.spread.as_str()) {
        ("", _) => "<td class=\"none\">–</td>".into(),
        (value, "") => format!("<td>{}</td>", escape(value)),
        (value, spread) => format!("<td>{}<span class=\"small\">{}</span></td>", escape(value), escape(spread)),
    }
}

fn figure(report: &Report, figure: &Figure) -> Result<String> {
    let data = base64(&figure.picture.encode_png(&[])?);
    let alt = escape(&format!("{} {}", report.runs[figure.run].name, figure.caption));
    Ok(format!(
        "<figure>\n<figcaption>{}<span class=\"small\">{}</span></figcaption>\n\
         <img alt=\"{alt}\" width=\"{}\" height=\"{}\" src=\"data:image/png;base64,{data}\"/>\n</figure>\n",
        name(report, figure.run),
        escape(&figure.caption),
        figure.picture.width,
        figure.picture.height
    ))
}

fn matrix(report: &Report, matrix: &Matrix) -> String {
    let mut out = format!(
        "<figure>\n<figcaption>{}<span class=\"small\">{}</span></figcaption>\n<div class=\"wide\">\n\
         <table class=\"matrix\">\n<thead>\n<tr><th></th>",
        name(report, matrix.run),
        escape(&matrix.caption)
    );
    out.extend(matrix.classes.iter().map(|c| format!("<th scope=\"col\"><span>{}</span></th>", escape(c))));
    out += "</tr>\n</thead>\n<tbody>\n";
    for (truth, class) in matrix.classes.iter().enumerate() {
        let counts: Vec<usize> = (0..matrix.classes.len()).map(|p| matrix.confusion.count(truth, p)).collect();
        let all = counts.iter().sum::<usize>().max(1) as f64;
        out += &format!("<tr><th scope=\"row\">{}</th>", escape(class));
        for (predicted, &count) in counts.iter().enumerate() {
            let kind = if predicted == truth { "right" } else { "wrong" };
            let share = (100.0 * count as f64 / all).round();
            let text = if count == 0 { String::new() } else { count.to_string() };
            out += &format!("<td class=\"{kind}\" style=\"--share:{share}%\">{text}</td>");
        }
        out += "</tr>\n";
    }
    out + "</tbody>\n</table>\n</div>\n</figure>\n"
}

/// Text for between tags and inside double or single quotes. Control characters, which no document
/// may hold, become the replacement character.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, i| group << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for digit in 0..4 {
            let at = group >> (18 - 6 * digit) & 63;
            out.push(if digit <= three.len() { DIGITS[at as usize] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 4648, section 10, and every digit.
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, wanted) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), wanted);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe, 0x00]), "/+++AA==");
    }

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escape("<a href=\"x\">&'\u{1}"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{FFFD}");
    }
}
