# Images: a tag is a commit, so none is ever replaced.
resource "aws_ecr_repository" "image" {
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.protected

  image_scanning_configuration { scan_on_push = true }
}
