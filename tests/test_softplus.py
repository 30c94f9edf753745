"""The softplus and the cross-entropy, held to torch's in a higher precision and by finite steps."""

import pytest
import torch
import torch.nn.functional as F

from vaekit.distributions.softplus import cross_entropy, softplus

f64 = torch.float64
EVERYWHERE = torch.cat(
    [torch.linspace(-87, 87, 20_001), torch.linspace(-1e-3, 1e-3, 2001), torch.tensor([1e4, -1e4])]
)


def exact(x: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(-x.abs())) + x.clamp_min(0)


class TestSoftplus:
    def test_it_is_right_to_rounding_everywhere(self) -> None:
        wide = exact(EVERYWHERE.to(f64))
        torch.testing.assert_close(softplus(EVERYWHERE).to(f64), wide, rtol=3e-7, atol=0)
        torch.testing.assert_close(softplus(EVERYWHERE.to(f64)), wide, rtol=5e-16, atol=0)

    def test_without_what_is_put_back_it_would_be_wrong(self) -> None:
        # The test above can fail: 1 + e^-30 is 1 in float32, whose logarithm is 0.
        x = torch.tensor(-30.0)
        assert torch.log(1 + x.exp()) == 0
        torch.testing.assert_close(softplus(x), x.exp())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_few_digits_are_left_to_torch(self, dtype: torch.dtype) -> None:
        x = torch.linspace(-9, 9, 99, dtype=dtype)
        assert torch.equal(softplus(x), F.softplus(x))

    def test_derivatives_of_every_kind(self) -> None:
        x = torch.linspace(-3, 3, 8, dtype=f64).view(2, 4).requires_grad_()
        torch.autograd.gradcheck(softplus, x, check_forward_ad=True, check_batched_grad=True)
        torch.autograd.gradgradcheck(softplus, x)
        by_row = torch.func.vmap(torch.func.grad(lambda row: softplus(row).sum()))
        torch.testing.assert_close(by_row(x.detach()), x.detach().sigmoid())


class TestCrossEntropy:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_is_torchs_of_shapes_that_broadcast(self, dtype: torch.dtype) -> None:
        logits = torch.linspace(-5, 5, 12, dtype=dtype).view(3, 4).requires_grad_()
        values = torch.linspace(0, 1, 24, dtype=dtype).view(2, 3, 4)
        expected = F.binary_cross_entropy_with_logits(
            logits.expand(2, 3, 4), values, reduction="none"
        )
        torch.testing.assert_close(cross_entropy(logits, values), expected)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, values).sum(), logits)
        (wanted,) = torch.autograd.grad(expected.sum(), logits)
        torch.testing.assert_close(gradient, wanted)

    def test_derivatives_of_every_kind(self) -> None:
        logits = torch.linspace(-3, 3, 4, dtype=f64, requires_grad=True)
        values = torch.linspace(0, 1, 8, dtype=f64).view(2, 4).requires_grad_()
        torch.autograd.gradcheck(
            cross_entropy, (logits, values), check_forward_ad=True, check_batched_grad=True
        )
        torch.autograd.gradgradcheck(cross_entropy, (logits, values))
        torch.autograd.gradcheck(cross_entropy, (logits, values.detach()), check_forward_ad=True)
        torch.autograd.gradcheck(cross_entropy, (logits.detach(), values), check_forward_ad=True)

    def test_under_vmap_over_either(self) -> None:
        logits, values = torch.linspace(-3, 3, 12).view(3, 4), torch.linspace(0, 1, 12).view(4, 3)
        over = torch.func.vmap(cross_entropy, in_dims=(0, 1))(logits, values)
        torch.testing.assert_close(over, cross_entropy(logits, values.mT))
        over = torch.func.vmap(cross_entropy, in_dims=(None, 0))(logits, logits[:, None].sigmoid())
        torch.testing.assert_close(over, cross_entropy(logits, logits[:, None].sigmoid()))
