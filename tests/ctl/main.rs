//! `dbufctl` as people use it: the program itself, over segments that the store has written.

mod account;
mod cat;
mod completions;
mod daemon;
mod fixture;
mod follow;
mod json;
mod pages;
mod segments;
mod verify;
