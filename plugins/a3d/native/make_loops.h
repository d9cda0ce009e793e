// Makes kLoops of mix_tile, mix_grad_tile, moments and combine; included behind them.
template <typename T> constexpr LoopsFor<T> make_loops() {
#define A3D_MIX(D) {mix_tile<D, false, T>, mix_tile<D, true, T>}
#define A3D_MIX_GRAD(D) {mix_grad_tile<D, kPlainGrad, T>, mix_grad_tile<D, kAffineGrad, T>, mix_grad_tile<D, kAccumulatingGrad, T>}
  return {
      {A3D_MIX(1), A3D_MIX(3), A3D_MIX(5), A3D_MIX(7), A3D_MIX(9)},
      {A3D_MIX_GRAD(1), A3D_MIX_GRAD(3), A3D_MIX_GRAD(5), A3D_MIX_GRAD(7), A3D_MIX_GRAD(9)},
      moments<T>,
      combine<T, T>,
      combine<float, T>,
  };
}

constexpr Loops kLoops{make_loops<float>(), make_loops<BFloat>()};
