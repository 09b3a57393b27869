#![no_main]

#[global_allocator]
static MEMORY: fewstep_fuzz::Counting = fewstep_fuzz::Counting;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fewstep_fuzz::bounded(data, 8 << 20, fewstep_fuzz::header));
