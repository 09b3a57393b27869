use crate::error::*; use crate::eval::results::Results; use serde::*;
#[derive(Debug,Clone,PartialEq,Default,Serialize,Deserialize)] pub struct GateConfig{}
pub struct Verdict{pub warnings:Vec<String>} impl Verdict{pub fn passes(&self,_s:bool)->bool{true}}
pub fn judge(_a:&Results,_b:&Results,_c:&GateConfig,_m:bool)->Result<Verdict>{Ok(Verdict{warnings:vec![]})}
pub fn junit(_v:&Verdict,_s:bool)->String{String::new()} pub fn markdown_summary(_v:&Verdict,_s:bool)->String{String::new()} pub fn text(_v:&Verdict,_s:bool)->String{String::new()} pub fn json(_v:&Verdict,_s:bool)->Result<String>{Ok(String::new())}
