//! `N` ranks give the answer of one, for every mechanism and wherever the text is cut; messages may be late.

mod attention;
mod documented;
mod recurrences;
