"""Score identity: a squared difference of scores, differentiated through frozen networks to the student's sample."""

from torch import Tensor

from fewstep.objectives.distribution_matching.divergences import Weight


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Mean over dimensions of the product: (N, ...), (N, ...) -> (N,)."""
    return (a * b).flatten(1).mean(1)


def score_identity(x: Tensor, teacher: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """d (teacher - x) - alpha d^2 with d = teacher - fake, (N,): a Fisher divergence whose gradient can be had.

    SiD, Zhou et al., 2404.04057, eq. 23; all three are clean samples: x the student's, the others predicted from x with
    noise, with graphs to x. In expectation the value is (1 - alpha) E d^2, since E[x | x_t] = fake. The fake score's
    weights are held, yet the gradient is had: with u = d held, E u (fake - x) = 0 for every student, so what the
    weights of `fake` would contribute to the gradient of E d^2, -2 E u dfake, is that of 2 E u (fake - x) through the
    samples.
      * alpha = 1: d (fake - x), half of that part alone, the samples at which d^2 is taken being held: SIM (Luo et al.,
        2410.16794, theorem 3.1).
      * alpha = 1/2: half the gradient of E d^2 itself. A Fisher divergence hardly sees the weights of modes far apart,
        and samples that flee to where d is small lose modes.
        Inverse bridge matching (IBMD, 2502.01362), derived from its abstract: min over students of E |teacher - x|^2 -
        min over bridge models of E |model - x|^2. The model's minimum is fake = E[x | x_t], and the difference of the
        two errors E d (d + 2 (fake - x)) = E d^2, as fake - x has no part along any function of x_t. Its gradient, the
        model held at its minimum, is that of E [d^2 + 2 d (fake - x)]: twice this.
      * alpha > 1 (SiD) takes some of d^2 away, so that samples move to where the scores differ.
    """
    d = teacher - fake
    return inner(d, teacher - x) - alpha * inner(d, d)


def expanded_divergence(
    x: Tensor, x_t: Tensor, teacher: Tensor, fake: Tensor, alpha: float, weight: Weight, ratio: Tensor, factor: Tensor
) -> Tensor:
    """The score identity of an f-divergence expanded along the diffusion (Uni-Instruct, Wang et al., 2505.20755): (N,).

    D_f(data | student) = integral over the diffusion of E_student,t h(r) |grad log r|^2 (times g^2 / 2), h = r^2
    f''(r), because dD_f/dt = -g^2 / 2 E h |grad log r|^2 by the Fokker-Planck equation. We differentiate J = E h(r)
    d^2, with d = teacher - fake, a multiple of grad log r:
      * through the samples, by the weights held: the gradient of E h d^2;
      * through the student's density in d: the gradient of 2 E h d (fake - x), as in `score_identity`, u = h d held;
      * through the student's density in r: dr = -r dlog p_student, and E a dlog p = gradient of E a through the samples
        for any held function a: minus the gradient of E r h' d^2.
    In all the gradient of E [(h - r h') d^2 + 2 h d (fake - x)], samples being all that moves; half of it is returned,
    so that h = 1 is `score_identity` (alpha = 1/2; other alphas add a multiple of d^2 as there). In r the samples move
    by the student's own scores, grad r = r grad log r, rather than through the discriminator: with the coefficient
    k = 1/2 d/dlog r [(h - r h') d^2 + 2 h d (fake - x)] held the part of r is k <grad log r, x_t>.

    x, teacher, fake as in `score_identity`; x_t: what the networks were given, with a graph; ratio: r (N,) at x_t,
    held; factor: (N,) alpha_t / sigma_t^2, which makes d the gradient of log r.
    """
    h, slope, curvature = weight.h(ratio), weight.slope(ratio), weight.curvature(ratio)
    d = teacher - fake
    direct = h * score_identity(x, teacher, fake, alpha) - 0.5 * slope * inner(d, d)
    held = d.detach()
    through_ratio = -0.5 * curvature * inner(held, held) + slope * inner(held, (fake - x).detach())
    # with alpha other than 1/2 the term (1/2 - alpha) h d^2 moves with r as well
    through_ratio = through_ratio + (0.5 - alpha) * slope * inner(held, held)
    count = held[0].numel()
    moved = inner(held, x_t) * count * factor
    return direct + through_ratio * (moved - moved.detach())
