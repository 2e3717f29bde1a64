//! The pure parts: signatures as text, planning and advancing.
fn main() {}
