//! Where the system lets no memory be made executable, other kernels compute what code for the weights would.
//!
//! The refusal holds for the whole process, so this test has one of its own.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_convolution_runs_where_no_code_can_be_made() {
    use sr2_formats::{CsrMatrix, Tensor};
    use sr2_kernels::{Buffer, Conv, Isa, NO_CLIP, Plane, ProgramBuilder, Threads, Weights, Window};

    /// `PR_SET_MDWE` and `PR_MDWE_REFUSE_EXEC_GAIN` of prctl(2), since Linux 6.3.
    const REFUSE: [libc::c_int; 2] = [65, 1];
    const CHANNELS: usize = 16;
    const TWICE: f32 = 2.0;

    let Some(isa) = Isa::available().into_iter().find(|isa| isa.name() == "avx512") else {
        eprintln!("SKIP: no AVX-512 on this CPU");
        return;
    };
    // SAFETY: it takes numbers, and only what is mapped from now on is refused.
    if unsafe { libc::prctl(REFUSE[0], REFUSE[1], 0, 0, 0) } != 0 {
        eprintln!("SKIP: this kernel refuses no executable memory");
        return;
    }
    let memory = memmap2::MmapMut::map_anon(1).unwrap();
    assert!(memory.make_exec().is_err(), "executable memory is not refused");

    let plane = Plane::rows(4, 4, 1);
    let mut builder = ProgramBuilder::new(isa, &[Buffer { plane, channels: CHANNELS }; 2]);
    builder.import(0);
    let identity = (0..CHANNELS * CHANNELS).map(|i| if i % (CHANNELS + 1) == 0 { TWICE } else { 0.0 }).collect();
    let matrix = CsrMatrix::from_dense(&Tensor::new([CHANNELS, CHANNELS], identity)).unwrap();
    let conv = Conv { window: Window::POINT, groups: 1, bias: None, residual: None, clip: NO_CLIP };
    assert!(conv.is_generated(&plane, &plane, isa));
    builder.conv(0, 1, Weights::Generated(&matrix), &conv).unwrap();
    builder.export(1);
    let program = builder.build(Threads { count: 1, spin: false, pin: false }, 1);
    let images: Vec<f32> = (0..CHANNELS * 16).map(|i| i as f32).collect();
    let mut outputs = vec![f32::NAN; images.len()];
    program.run(&images, 1, &mut outputs, &mut program.workspace().unwrap());
    let expected: Vec<f32> = images.iter().map(|x| TWICE * x).collect();
    assert_eq!(outputs, expected);
}
