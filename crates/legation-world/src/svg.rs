//! Terminal text as a picture: one SVG, no fonts or scripts of its own, readable as text.

use std::fmt::Write as _;

/// Height of a line and width of a letter in the picture's units, for 13-pixel letters.
const LINE: usize = 18;
const LETTER: f64 = 7.83;
/// Space around the text.
const EDGE: usize = 20;

/// The picture of some terminal text; `title` is for those who cannot see it.
pub fn picture(title: &str, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let widest = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    let (width, height) = (
        (widest as f64 * LETTER).ceil() as usize + 2 * EDGE,
        lines.len() * LINE + 2 * EDGE,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#10151c\"/>\n\
         <g font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"13\" \
         xml:space=\"preserve\" style=\"white-space:pre\">\n",
        escaped(title)
    );
    for (i, line) in lines.iter().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let y = EDGE + i * LINE + LINE - 5;
        let colour = colour(line);
        // The length is fixed so that columns stand whatever font there is.
        let length = line.chars().count() as f64 * LETTER;
        let _ = writeln!(
            svg,
            "<text x=\"{EDGE}\" y=\"{y}\" fill=\"{colour}\" textLength=\"{length:.0}\" lengthAdjust=\"spacingAndGlyphs\">{}</text>",
            escaped(line)
        );
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// Headings, refusals and good ends stand out.
fn colour(line: &str) -> &'static str {
    if line.starts_with(|c: char| c.is_ascii_digit()) {
        "#ffd479"
    } else if line.contains("NOT SO") {
        "#ff6b6b"
    } else if line.contains("refused") {
        "#ff9d76"
    } else if line.contains("intact")
        || line.contains("every byte equal")
        || line.contains("Nothing acknowledged")
    {
        "#8bdc9f"
    } else if line.trim_start().starts_with('$') {
        "#7fc8ff"
    } else {
        "#d7dee8"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
